//! Serves metrics over HTTP, from a thread of its own, so that they can be had while every worker is busy.

use std::io::Cursor;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use tiny_http::{Header, Method, Request, Response, Server};

use crate::shell::Failure;

/// How long to wait when no connection can be accepted, as with too many open files.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves `registry` on `address` as long as the process lives, and returns the address that it is; it differs for port 0.
pub(super) fn serve(address: &str, registry: Registry) -> Result<SocketAddr, Failure> {
    let failure = |error: std::io::Error| {
        Failure::new(format!(
            "cannot serve metrics at {address}: {error}; give --metrics the address and the port of this machine that are to be used, such as 127.0.0.1:9464"
        ))
    };
    let listener = TcpListener::bind(address).map_err(failure)?;
    let bound = listener.local_addr().map_err(failure)?;
    thread::Builder::new()
        .name("alluvial-metrics".to_owned())
        .spawn(move || answer_all(&listener, &registry))
        .map_err(failure)?;
    Ok(bound)
}

/// A server ends when it cannot accept a connection; another one takes its place.
fn answer_all(listener: &TcpListener, registry: &Registry) {
    loop {
        if let Ok(listener) = listener.try_clone()
            && let Ok(server) = Server::from_listener(listener, None)
        {
            for request in server.incoming_requests() {
                let response = answer(&request, registry);
                // A client that has gone needs no answer.
                request.respond(response).ok();
            }
        }
        thread::sleep(PAUSE);
    }
}

fn answer(request: &Request, registry: &Registry) -> Response<Cursor<Vec<u8>>> {
    let path = request.url().split('?').next();
    if path != Some("/metrics") || !matches!(request.method(), Method::Get | Method::Head) {
        return Response::from_string("see GET /metrics\n").with_status_code(404);
    }
    let text = match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => text,
        Err(error) => return Response::from_string(format!("{error}\n")).with_status_code(500),
    };
    match Header::from_bytes("Content-Type", TEXT_FORMAT) {
        Ok(header) => Response::from_string(text).with_header(header),
        Err(()) => Response::from_string(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::IntCounter;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    #[test]
    fn metrics_are_served_at_one_path() {
        let registry = Registry::new();
        let counter = IntCounter::new("runs", "Runs.").unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        let address = serve("127.0.0.1:0", registry).unwrap();
        counter.inc();
        let response = get(address, "/metrics");
        assert!(response.starts_with("HTTP/1.0 200 "), "{response}");
        assert!(response.contains("text/plain; version=0.0.4"), "{response}");
        assert!(response.ends_with("\nruns 1\n"), "{response}");
        let response = get(address, "/");
        assert!(response.starts_with("HTTP/1.0 404 "), "{response}");
    }

    #[test]
    fn an_address_that_is_taken_is_named() {
        let address = serve("127.0.0.1:0", Registry::new()).unwrap().to_string();
        let error = serve(&address, Registry::new()).unwrap_err().to_string();
        assert!(error.contains(&format!("at {address}: ")), "{error}");
    }
}
