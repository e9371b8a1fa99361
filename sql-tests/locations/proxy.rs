//! A proxy that cuts every connection after so many bytes, as some servers and firewalls do.

use std::io::{self, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A proxy on a port of its own, for as long as this process lives.
pub(super) struct CuttingProxy {
    port: u16,
    cuts: Arc<AtomicUsize>,
}

impl CuttingProxy {
    /// Passes connections on to `target`, and cuts each once the server has sent `bytes`.
    pub(super) fn start(target: u16, bytes: u64) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let cuts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&cuts);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let cuts = Arc::clone(&counted);
                // a connection that fails is only cut earlier
                thread::spawn(move || pass_on(&client, target, bytes, &cuts));
            }
        });
        Ok(Self { port, cuts })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// How many connections have been cut.
    pub(super) fn cuts(&self) -> usize {
        self.cuts.load(Ordering::Relaxed)
    }
}

fn pass_on(client: &TcpStream, target: u16, bytes: u64, cuts: &AtomicUsize) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", target))?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let mut to_client = client;
    let sent = io::copy(&mut (&server).take(bytes), &mut to_client);
    if sent.is_ok_and(|sent| sent == bytes) {
        cuts.fetch_add(1, Ordering::Relaxed);
    }
    client.shutdown(Shutdown::Both)?;
    server.shutdown(Shutdown::Both)
}
