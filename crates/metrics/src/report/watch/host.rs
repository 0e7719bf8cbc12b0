//! Who a request means.

use hyper::Request;
use hyper::header::HOST;

/// Names by which a browser means its own machine.
const OURS: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// Whether the browser means this machine: a page of another host whose name leads here may not read it. The port may be
/// another one, of a tunnel, which may also be where `[::1]` comes from.
pub fn is_ours<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    // A target such as http://NAME/ counts beside the header.
    let target = request.uri().authority();
    host.to_str().is_ok_and(is_this_machine) && target.is_none_or(|t| is_this_machine(t.as_str()))
}

fn is_this_machine(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        // A colon within an address is none before a port.
        Some((name, port)) if !host.ends_with(']') => (name, port),
        _ => (host, ""),
    };
    let named = OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours));
    named && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_ours() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:8600",
            "localhost",
            "LocalHost:1",
            "[::1]",
            "[::1]:8600",
            "localhost:",
        ] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in [
            "",
            ":8600",
            "evil.example",
            "evil.example:8600",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example:localhost",
            "localhost:80@evil.example",
            "localhost@evil.example",
            "::1",
            "[::1",
            "[::2]",
            "[::1].evil.example",
            "127.0.0.2",
            "localhost:8600:8600",
            "0.0.0.0",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn one_host_is_named_and_it_is_the_one_meant() {
        let request = |target: &str, hosts: &[&str]| {
            let mut request = Request::builder().uri(target);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            is_ours(&request.body(()).unwrap())
        };
        assert!(request("/", &["localhost"]));
        assert!(request("http://127.0.0.1:1/", &["localhost"]));
        assert!(!request("http://evil.example/", &["localhost"]));
        assert!(!request("/", &["localhost", "evil.example"]));
        assert!(!request("/", &[]));
    }
}
