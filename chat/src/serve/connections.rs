//! Connections of clients, which are bounded in number and in the time that a client may be silent.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use common::cli;
use hyper::server::conn::http1::{Builder, Connection};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

/// Most connections at a time; others wait until one ends.
const MOST_CONNECTIONS: usize = 512;
/// Most bytes of the head of a request; and of what a client has yet to read, in the server and again in the system.
const MOST_BUFFERED: usize = 64 << 10;
/// How long a client may send nothing where a request is expected.
const MOST_SILENCE: Duration = Duration::from_secs(30);
/// How long a client may read nothing of what is sent.
const MOST_UNREAD: Duration = Duration::from_secs(60);
/// How long clients may take to read the end of their answers when the server stops.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long to wait after a connection could not be accepted, as when there are too many open files.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Accepts connections until `stop` is told or dropped, and then waits for a moment until the requests that have begun
/// are answered.
pub(crate) async fn accept(listener: TcpListener, router: Router, mut stop: oneshot::Receiver<()>) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let open = GracefulShutdown::new();
    loop {
        let next = async {
            // The semaphore is never closed.
            let permit = room.clone().acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            _ = &mut stop => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = open.watch(serve(stream, router.clone()));
                tokio::spawn(async move {
                    if let Err(problem) = connection.await {
                        cli::verbose(format_args!("a connection has ended: {problem}"));
                    }
                    drop(permit);
                });
            }
            Err(problem) => {
                cli::warn(format_args!("cannot accept a connection: {problem}"));
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
    drop(listener);
    // What is not answered by then is cut off.
    let _ = tokio::time::timeout(FAREWELL, open.shutdown()).await;
}

/// Begins to answer the requests of one connection.
fn serve(stream: TcpStream, router: Router) -> Connection<TokioIo<TcpStream>, TowerToHyperService<Router>> {
    let socket = SockRef::from(&stream);
    // These make things better, and nothing depends on them.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_send_buffer_size(MOST_BUFFERED);
    let _ = socket.set_tcp_user_timeout(Some(MOST_UNREAD));
    Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(MOST_SILENCE)
        .max_buf_size(MOST_BUFFERED)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
}
