//! The metrics port: how the node is, over HTTP. `/metrics` for Prometheus, `/healthz` and `/readyz` for orchestrators,
//! `/status` as JSON, `/` as a page for people that polls it.
//!
//! Role: a thread of its own, so that a scrape takes no turn of a connection and is answered until the very end of a drain.
//! Nothing here changes anything.
//!
//! Invariants:
//! - At most [`CONNECTIONS_MAX`] connections, each of one request and of [`CONNECTION_MAX`] at most.
//! - On a loopback address only requests for a loopback name or an address are answered: a page of the web that has its own
//!   name resolve to this machine gets nothing.

pub(crate) mod metrics;
mod status;

use crate::node::{Node, Stage};
use anyhow::Context as _;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

/// Connections at once. One more is closed.
const CONNECTIONS_MAX: usize = 64;
/// Time from accepting a connection to its end.
const CONNECTION_MAX: Duration = Duration::from_secs(10);
/// Time that the head of a request may take.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// Bytes that are buffered of a request.
const BUFFER_LEN_MAX: usize = 16 * 1024;
/// Pause after accepting failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const PAGE: &str = include_str!("http/page.html");
const TEXT: &str = "text/plain; charset=utf-8";

/// The port, served until this is dropped.
pub(crate) struct Http {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Http {
    /// Serves the port on a thread of its own.
    pub(crate) fn start(node: &Arc<Node>, listener: std::net::TcpListener) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime of the metrics port")?;
        let (stop, stopped) = oneshot::channel();
        let node = Arc::clone(node);
        let thread = std::thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        served = accept(node, listener) => {
                            if let Err(error) = served {
                                tracing::error!(%error, "the metrics port is not served");
                            }
                        }
                        _ = stopped => {}
                    }
                });
            })
            .context("start the thread of the metrics port")?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(node: Arc<Node>, listener: std::net::TcpListener) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let own = listener.local_addr()?;
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(seat) = Arc::clone(&seats).try_acquire_owned() else { continue };
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            // One that is cut off here was too slow.
            let _ = tokio::time::timeout(CONNECTION_MAX, serve(node, socket, own)).await;
            drop(seat);
        });
    }
}

async fn serve(node: Arc<Node>, socket: TcpStream, own: SocketAddr) {
    if !node.config.read().tls_metrics {
        return converse(node, socket, own).await;
    }
    if let Some(socket) = node.tls.accept(&node, socket, HEAD_MAX).await {
        converse(node, socket, own).await;
    }
}

async fn converse<W>(node: Arc<Node>, socket: W, own: SocketAddr)
where
    W: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request| {
        let response = answer(&node, &request, own);
        async { Ok::<_, Infallible>(response) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(BUFFER_LEN_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the metrics port ended");
    }
}

fn answer(node: &Node, request: &Request<Incoming>, own: SocketAddr) -> Response<Full<Bytes>> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if own.ip().is_loopback() && !host.is_none_or(is_own_name) {
        return response(StatusCode::MISDIRECTED_REQUEST, TEXT, "ask for localhost or an address\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "nothing can be changed here\n");
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/metrics" => match metrics::text(node) {
            Ok(text) => response(StatusCode::OK, metrics::CONTENT_TYPE, text),
            Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        },
        "/healthz" | "/livez" => match node.is_alive() {
            true => response(StatusCode::OK, TEXT, "ok\n"),
            false => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, "upkeep has stood still for too long\n"),
        },
        "/readyz" => {
            let stage = node.stage();
            let code = if stage == Stage::Serving { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            response(code, TEXT, format!("{}\n", status::stage_words(node)))
        }
        "/status" => response(StatusCode::OK, "application/json", status::json(node).to_string()),
        "/" => response(StatusCode::OK, "text/html; charset=utf-8", PAGE),
        _ => response(StatusCode::NOT_FOUND, TEXT, "there are /, /status, /metrics, /healthz and /readyz\n"),
    }
}

/// Whether a `Host` names this machine by an address or as `localhost`.
fn is_own_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn response(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:",
        ),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_web_is_not_ours() {
        for (host, own) in [
            ("127.0.0.1:9379", true),
            ("localhost", true),
            ("LOCALHOST:9379", true),
            ("[::1]:9379", true),
            ("10.1.2.3", true),
            ("evil.example:9379", false),
            ("localhost.evil.example", false),
            ("", false),
        ] {
            assert_eq!(is_own_name(host), own, "{host}");
        }
    }
}
