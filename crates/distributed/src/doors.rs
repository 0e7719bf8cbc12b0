//! Listening in both families of addresses.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, TcpListener};

/// A listener that does not block for each of these addresses that can be listened at, of which one is enough: on some
/// systems the first serves both, and the second is refused then. A port of 0 is one that the system chooses, for each.
///
/// # Errors
/// What the last says, or the first where it is somebody else's.
pub(crate) fn listen(hosts: [IpAddr; 2], port: u16) -> io::Result<Vec<TcpListener>> {
    let listen = |host: IpAddr| -> io::Result<TcpListener> {
        let listener = TcpListener::bind((host, port))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    match hosts.map(listen) {
        [Ok(one), Ok(other)] => Ok(vec![one, other]),
        [Ok(one), Err(_)] => Ok(vec![one]),
        [Err(e), _] if e.kind() == ErrorKind::AddrInUse => Err(e),
        [Err(_), Ok(one)] => Ok(vec![one]),
        [Err(_), Err(e)] => Err(e),
    }
}
