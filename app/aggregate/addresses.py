"""Which addresses an upstream may have."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# By these networks IPv4 is reached: mapped addresses (RFC 4291 2.5.5.2), and NAT64 (RFC 6052).
_LEADING_TO_IPV4 = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))

# Not of one host in the open Internet, whatever the version of Python says: 6to4 (RFC 3056), by which IPv4 is reached,
# protocol assignments (RFC 6890), Teredo among them, and documentation (RFC 9637).
_NEVER_PUBLIC = (
    IPv4Network("192.0.0.0/24"),
    IPv6Network("2001::/23"),
    IPv6Network("2002::/16"),
    IPv6Network("3fff::/20"),
)


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
    if any(address in network for network in _NEVER_PUBLIC):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)
