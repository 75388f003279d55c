//! Redis Cluster: its nodes, and the slot that a prefix puts all keys into.
//!
//! One node serves a slot, so it is enough to follow redirections to that node. The cluster client of the redis crate
//! is not used: it keeps connections to all nodes, has one time limit for blocking and other commands, and repeats
//! commands that may have run already.

use super::super::Reply;

/// The address of a node. An empty host stands for that of the node which named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub host: String,
    pub port: u16,
}

/// The node in a redirection, `SLOT HOST:PORT`.
pub(super) fn parse_redirection(text: &str) -> Option<Node> {
    let (host, port) = text.split_ascii_whitespace().nth(1)?.rsplit_once(':')?;
    Some(Node { host: unbracketed(host).to_owned(), port: port.parse().ok()? })
}

/// The nodes in a reply to `CLUSTER SLOTS`, without those whose address the server does not know.
pub(super) fn parse_slots(reply: &Reply) -> Vec<Node> {
    let mut nodes = Vec::new();
    // Each range of slots is its start and end, then its primary and the replicas.
    for server in reply
        .list()
        .unwrap_or_default()
        .iter()
        .filter_map(Reply::list)
        .flat_map(|range| range.get(2..).unwrap_or_default())
    {
        let Some([host, port, ..]) = server.list() else { continue };
        let host = host.text().unwrap_or_default();
        let Some(port) = port.int().and_then(|port| u16::try_from(port).ok()) else { continue };
        let node = Node { host: unbracketed(host).to_owned(), port };
        if host != "?" && !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    nodes
}

fn unbracketed(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// What these parsers promise, for `crate::fuzz`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_cluster_reply(reply: &Reply) {
    let moved = reply.text().and_then(parse_redirection);
    let nodes = parse_slots(reply);
    for (n, node) in nodes.iter().enumerate() {
        assert!(!nodes[..n].contains(node), "{node:?} is listed twice");
    }
    for node in nodes.iter().chain(&moved) {
        assert!(!node.host.starts_with('[') && !node.host.ends_with(']'), "{node:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> Node {
        Node { host: host.into(), port }
    }

    #[test]
    fn redirections_name_a_node_by_name_or_address_or_port_alone() {
        assert_eq!(parse_redirection("3999 10.0.0.7:6381"), Some(node("10.0.0.7", 6381)));
        assert_eq!(parse_redirection("3999 fd00::7:6381"), Some(node("fd00::7", 6381)));
        assert_eq!(parse_redirection("3999 one.cache.example:6381"), Some(node("one.cache.example", 6381)));
        assert_eq!(parse_redirection("3999 :6381"), Some(node("", 6381)));
        assert_eq!(parse_redirection("3999"), None);
        assert_eq!(parse_redirection("3999 host:port"), None);
    }

    #[test]
    fn slots_list_each_known_node_once() {
        let text = |text: &str| Reply::Text(text.into());
        let server =
            |host: Reply, port| Reply::List(vec![host, Reply::Int(port), text("id"), Reply::List(vec![])]);
        let range = |servers: Vec<Reply>| Reply::List([vec![Reply::Int(0), Reply::Int(9)], servers].concat());
        let reply = Reply::List(vec![
            range(vec![server(text("a"), 1), server(Reply::Nil, 2)]),
            range(vec![server(text("a"), 1), server(text("?"), 3)]),
            Reply::List(vec![]),
        ]);
        assert_eq!(parse_slots(&reply), [node("a", 1), node("", 2)]);
    }
}
