"""Which addresses an upstream may have."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# By these networks IPv4 is reached: mapped addresses (RFC 4291 2.5.5.2), and NAT64 (RFC 6052).
_LEADING_TO_IPV4 = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))


def is_public(text: str) -> bool:
    """Whether ``text`` is an address of one host in the open Internet.

    Not so: private, shared (CGNAT, RFC 6598), loopback, link-local, unique and site-local, multicast, unspecified,
    reserved and documentation addresses, tunnels, an IPv6 address that leads to one of these, and what is no address.
    """
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        if any(address in network for network in _LEADING_TO_IPV4):
            address = IPv4Address(int(address) & 0xFFFFFFFF)
        elif address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved)
