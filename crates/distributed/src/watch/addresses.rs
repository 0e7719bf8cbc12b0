//! Where this host can be reached.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use sysinfo::Networks;

/// Addresses of all interfaces: loopback first, then IPv4, then IPv6. Those that mean nothing without an interface's name
/// (IPv6 link-local) are left out.
pub(super) fn of_this_host() -> Vec<IpAddr> {
    let networks = Networks::new_with_refreshed_list();
    let listed = networks.values().flat_map(|network| network.ip_networks());
    // Not every system lists them.
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let all = listed.map(|network| network.addr).chain(loopback);
    // Sorted and once each: the list's order is chance.
    let all: BTreeSet<_> = all.filter(is_of_use).collect();
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by_key(|address| !address.is_loopback());
    all
}

fn is_of_use(address: &IpAddr) -> bool {
    let only_here = match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !only_here && !address.is_unspecified() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_comes_first_and_link_local_is_left_out() {
        let all = of_this_host();
        assert!(all[0].is_loopback());
        assert!(all.iter().all(is_of_use));
        assert!(!is_of_use(&"fe80::1".parse().unwrap()));
        assert!(is_of_use(&"10.0.0.1".parse().unwrap()));
    }
}
