//! What the kernel threw away because a program did not read its socket in time: a loss that no emulated link accounts for.

/// Datagrams that found a full receive buffer, on any UDP socket of this network namespace, since the machine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpDrops(u64);

impl UdpDrops {
    /// As counted now; zero where the system does not tell.
    pub fn now() -> UdpDrops {
        std::fs::read_to_string("/proc/net/snmp").ok().and_then(|text| UdpDrops::parse(&text)).unwrap_or_default()
    }

    /// Those since `earlier`.
    pub fn since(self, earlier: UdpDrops) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// `RcvbufErrors` of `/proc/net/snmp`: a line of names and a line of values, each beginning with `Udp:`.
    fn parse(text: &str) -> Option<UdpDrops> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp:"));
        let (names, values) = (lines.next()?, lines.next()?);
        let at = names.split_whitespace().position(|name| name == "RcvbufErrors")?;
        values.split_whitespace().nth(at)?.parse().ok().map(UdpDrops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_by_its_name() {
        let text = "Tcp: A B\nTcp: 1 2\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors\n\
                    Udp: 10 20 30 40 55 60\nUdpLite: InDatagrams RcvbufErrors\nUdpLite: 7 8\n";
        assert_eq!(UdpDrops::parse(text), Some(UdpDrops(55)));
        assert_eq!(UdpDrops::parse("Udp: InDatagrams\nUdp: 1\n"), None);
        assert_eq!(UdpDrops::parse(""), None);
    }
}
