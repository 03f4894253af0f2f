//! An address of this machine that a pod could have. The suite of hostile peers calls it, because agents and bridges refuse loopback for
//! direct links.

use std::fs;
use std::net::Ipv4Addr;

/// Returns an IPv4 address of this machine beside its loopback.
pub fn own_address() -> Ipv4Addr {
    let table = fs::read_to_string("/proc/net/fib_trie").unwrap();
    let lines: Vec<_> = table.lines().map(str::trim).collect();
    let local = lines.windows(2).filter(|pair| pair[1] == "/32 host LOCAL");
    let mut addresses = local.filter_map(|pair| pair[0].strip_prefix("|-- ")?.parse::<Ipv4Addr>().ok());
    addresses
        .find(|address| !address.is_loopback())
        .expect("this machine has an address beside its loopback")
}
