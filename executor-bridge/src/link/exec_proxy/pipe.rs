//! The byte pipe over a running proxy: two tasks copy between HTTP/2 and the WebSocket of the exec. `exec_proxy` makes it at the end of
//! a dial.

use std::io;

use bytes::Bytes;
use tokio::io::{DuplexStream, duplex, join};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;

use crate::link::exec_proxy::container_exec::Proxy;
use crate::link::exec_proxy::exec_stream::{Reader, Writer};
use crate::link::{DialedLink, Handle, LinkName, MonitoredPipe};
use crate::pod::ContainerRef;

/// Buffer from HTTP/2 to the WebSocket: one message of stdin, while the previous one is being sent. It exists as long as the link.
const PIPE_BUFFER: usize = 64 * 1024;
/// Messages from the WebSocket that wait for HTTP/2 (a message of the API server has 32 KiB).
const WAITING_MESSAGES: usize = 4;

pub(super) fn make_link(proxy: Proxy, container: ContainerRef, name: LinkName) -> DialedLink {
    let Proxy { reader, writer, rest } = proxy;
    let (near, from_bridge) = duplex(PIPE_BUFFER);
    let (to_bridge, from_pod) = mpsc::channel(WAITING_MESSAGES);
    let near = join(StreamReader::new(ReceiverStream::new(from_pod)), near);
    let handle = Handle::new(None);
    let downward = tokio::spawn(copy_to_bridge(reader, rest, to_bridge, handle.clone()));
    let upward = tokio::spawn(copy_to_pod(from_bridge, writer));
    handle.abort_at_end(downward.abort_handle());
    handle.abort_at_end(upward.abort_handle());
    DialedLink {
        pipe: Box::new(MonitoredPipe::new(near, handle.clone())),
        handle,
        container: Some(container),
        name,
    }
}

async fn copy_to_bridge(mut reader: Reader, rest: Bytes, to_bridge: mpsc::Sender<io::Result<Bytes>>, handle: Handle) {
    let mut data = Some(rest);
    while let Some(bytes) = data {
        if to_bridge.send(Ok(bytes)).await.is_err() {
            // The gRPC connection has dropped the pipe.
            return;
        }
        data = reader.stdout().await;
    }
    // The end of stdout is always a break: HTTP/2 ends a connection by messages of its own.
    handle.note_break(reader.end_reason());
}

async fn copy_to_pod(mut from_bridge: DuplexStream, mut writer: Writer) {
    loop {
        match writer.stdin_from(&mut from_bridge).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) => return,
        }
    }
    // The proxy ends when its stdin does.
    let _ = writer.end_stdin().await;
    writer.close().await;
}
