"""Which addresses an upstream may have."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# Within these an IPv4 address is the last of the bytes, and where a packet really goes (RFC 6052, RFC 4291 2.5.5).
_AROUND_IPV4 = tuple(map(IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96")))


def is_public(text: str) -> bool:
    """Whether ``text`` is an address of one host in the open Internet.

    Not so: private, shared (CGNAT, RFC 6598), loopback, link-local, unique and site-local, multicast, unspecified,
    reserved and documentation addresses, IPv6 that has one of these inside, and what is no address.
    """
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return all(_is_global(each) for each in (address, *_inside(address)))


def _inside(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that an IPv6 one leads to."""
    if isinstance(address, IPv4Address):
        return []
    found = [IPv4Address(int(address) & 0xFFFFFFFF)] if any(address in each for each in _AROUND_IPV4) else []
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found.extend(address.teredo)
    return found


def _is_global(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:  # the address itself is in no list; what is inside is looked at
            return True
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_loopback)
