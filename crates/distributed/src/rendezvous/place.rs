//! What the environment says of the place.

use super::secret;
use aios_base::error::{Error, Result};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// Text that all ranks of a job have, and nobody else.
pub(super) const SECRET: &str = "AIOS_JOB_SECRET";

/// A port in place of the one that follows from the launcher's.
pub(super) const PORT: &str = "AIOS_MASTER_PORT";

pub(super) struct Place {
    /// Rank 0's; empty where all ranks are on this host.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) secret: Secret,
    /// What else makes a job this one.
    job: String,
}

/// Where the secret comes from.
pub(super) enum Secret {
    Text(String),
    /// A file that rank 0 makes, and others of its host read.
    File(PathBuf),
}

impl Place {
    pub(super) fn of(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|text| !text.is_empty());
        let number = |name: &str| match set(name) {
            None => Ok(None),
            Some(text) => match text.parse::<u16>() {
                Ok(number) if number > 0 => Ok(Some(number)),
                _ => Err(Error::failed(format!(
                    "{name} is `{text}`, which is no port"
                ))),
            },
        };
        let master = number("MASTER_PORT")?;
        let port = match (number(PORT)?, master) {
            (Some(port), _) => port,
            (None, None) => return Err(missing("MASTER_PORT")),
            (None, Some(port)) => port.checked_add(u16::from(is_taken(&set))).ok_or_else(|| {
                Error::failed(format!(
                    "MASTER_PORT is {port}, and no port follows: set {PORT} on all ranks"
                ))
            })?,
        };
        let together = set("LOCAL_WORLD_SIZE").is_some_and(|here| Some(here) == set("WORLD_SIZE"));
        let host = match together {
            true => String::new(),
            false => set("MASTER_ADDR").ok_or_else(|| missing("MASTER_ADDR"))?,
        };
        let secret = match set(SECRET) {
            Some(text) => Secret::Text(text),
            None if together => Secret::File(secret::file(port)),
            None => {
                return Err(Error::failed(format!(
                    "the job's ranks may be on several hosts, and have no secret to know each other by: set {SECRET} to \
                     the same random text on all of them, such as what `openssl rand -hex 32` says"
                )));
            }
        };
        let job = set("TORCHELASTIC_RUN_ID").unwrap_or_default();
        Ok(Self {
            host,
            port,
            secret,
            job,
        })
    }

    /// Whether all ranks are on this host.
    pub(super) fn is_here(&self) -> bool {
        self.host.is_empty()
    }

    /// Where rank 0 may be reached: asked anew for each attempt, as its name may not be known yet.
    pub(super) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        match self.is_here() {
            true => Ok([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
                .map(|host| SocketAddr::new(host, self.port))
                .into()),
            false => Ok((self.host.as_str(), self.port).to_socket_addrs()?.collect()),
        }
    }

    /// What ranks prove to each other that they have, made of the job's secret.
    pub(super) fn key(&self, secret: &str) -> io::Result<[u8; 32]> {
        let mut mac =
            <Hmac<Sha256> as Mac>::new_from_slice(secret.as_bytes()).map_err(io::Error::other)?;
        mac.update(b"aios rendezvous\n");
        mac.update(self.job.as_bytes());
        Ok(mac.finalize().into_bytes().into())
    }

    /// The place in words.
    pub(super) fn in_words(&self) -> String {
        match self.is_here() {
            true => format!("port {} of this host", self.port),
            false => format!("{} port {}", self.host, self.port),
        }
    }
}

/// Whether torchrun itself listens at the launcher's port.
fn is_taken(set: &dyn Fn(&str) -> Option<String>) -> bool {
    set("TORCHELASTIC_USE_AGENT_STORE")
        .is_some_and(|text| text.eq_ignore_ascii_case("true") || text == "1")
}

fn missing(name: &str) -> Error {
    Error::failed(format!(
        "RANK and WORLD_SIZE are set, as torchrun sets them, and {name} is not: set it on all ranks, or start them by torchrun"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Place> {
        Place::of(&|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.to_string())
        })
    }

    const SEVERAL: [(&str, &str); 4] = [
        ("WORLD_SIZE", "4"),
        ("LOCAL_WORLD_SIZE", "2"),
        ("MASTER_ADDR", "a"),
        ("MASTER_PORT", "100"),
    ];

    #[test]
    fn the_port_is_the_launchers_unless_it_listens_there_itself() {
        let port = |more: &[(&str, &str)]| {
            of(&[&SEVERAL[..], &[(SECRET, "s")], more].concat())
                .unwrap()
                .port
        };
        assert_eq!(port(&[]), 100);
        assert_eq!(port(&[("TORCHELASTIC_USE_AGENT_STORE", "True")]), 101);
        assert_eq!(port(&[("TORCHELASTIC_USE_AGENT_STORE", "False")]), 100);
        assert_eq!(
            port(&[("TORCHELASTIC_USE_AGENT_STORE", "True"), (PORT, "7")]),
            7
        );
    }

    #[test]
    fn several_hosts_need_a_secret_and_one_does_not() {
        let error = of(&SEVERAL).map(drop).unwrap_err().to_string();
        assert!(
            error.contains("set AIOS_JOB_SECRET to the same random text"),
            "{error}"
        );
        let place = of(&[("LOCAL_WORLD_SIZE", "4"), SEVERAL[0], SEVERAL[3]]).unwrap();
        assert!(place.is_here() && matches!(place.secret, Secret::File(_)));
        assert!(
            place
                .addresses()
                .unwrap()
                .iter()
                .all(|a| a.ip().is_loopback())
        );
    }

    #[test]
    fn what_is_missing_or_no_port_is_said() {
        for (variables, named) in [
            (&[][..], "MASTER_PORT is not"),
            (&[("MASTER_PORT", "1")], "MASTER_ADDR is not"),
            (&[("MASTER_PORT", "70000")], "`70000`"),
            (&[("MASTER_PORT", "0")], "`0`"),
            (
                &[
                    ("MASTER_PORT", "65535"),
                    ("TORCHELASTIC_USE_AGENT_STORE", "True"),
                ],
                "65535",
            ),
        ] {
            let error = of(variables).map(drop).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn keys_differ_by_secret_and_by_job() {
        let one = of(&[&SEVERAL[..], &[(SECRET, "s")]].concat()).unwrap();
        let other =
            of(&[&SEVERAL[..], &[(SECRET, "s"), ("TORCHELASTIC_RUN_ID", "7")]].concat()).unwrap();
        assert_ne!(one.key("s").unwrap(), one.key("t").unwrap());
        assert_ne!(one.key("s").unwrap(), other.key("s").unwrap());
    }
}
