//! Hands a proxy's standard streams over to the agent (ADR 11), so that no process copies bytes between the container runtime and the
//! agent. Afterwards the proxy's socket only shows that the proxy lives. `commands::proxy` offers the streams, `connection` takes them.

use std::io::{self, IoSlice, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv,
    recvmsg, sendmsg,
};
use rustix::pipe::fcntl_setpipe_size;

/// Byte that carries the file descriptors. HTTP/2 begins with another byte.
const OFFER: u8 = 0;
/// Byte of the answer. An agent that knows no offers begins HTTP/2 or closes the connection.
const ACCEPTED: u8 = 1;
/// Size of the pipes in bytes: the most that Linux grants without a privilege. With large pipes, the runtime and the agent switch less
/// often.
const PIPE_SIZE: usize = 1 << 20;

/// Standard input and output of a proxy.
#[derive(Debug)]
pub(crate) struct ProxyStreams {
    pub(crate) input: OwnedFd,
    pub(crate) output: OwnedFd,
}

/// Offers the streams to the agent and returns whether it took them. If it did not, no other use of the connection is possible.
pub(crate) fn offer(mut agent: &UnixStream, input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> io::Result<bool> {
    let descriptors = [input, output];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Ok(false);
    }
    for descriptor in descriptors {
        // A failure is ignored: smaller pipes work, too.
        let _ = fcntl_setpipe_size(descriptor, PIPE_SIZE);
    }
    sendmsg(agent, &[IoSlice::new(&[OFFER])], &mut control, SendFlags::NOSIGNAL)?;
    let mut answer = [0];
    Ok(agent.read(&mut answer)? == 1 && answer[0] == ACCEPTED)
}

/// Returns whether both streams are pipes. The agent takes pipes only, because it waits for them with tokio's pipe types.
pub(crate) fn are_pipes(input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> bool {
    let is_pipe =
        |descriptor| fstat(descriptor).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    is_pipe(input) && is_pipe(output)
}

/// Takes the streams of an offer from a non-blocking socket. `None`: the first byte is no offer, and it stays unread.
pub(crate) fn take(socket: impl std::os::fd::AsFd) -> Result<Option<ProxyStreams>, Errno> {
    let mut first = [0];
    let (_, length) = recv(&socket, &mut first[..], RecvFlags::PEEK)?;
    if length == 0 || first[0] != OFFER {
        return Ok(None);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        &socket,
        &mut [IoSliceMut::new(&mut first)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let mut descriptors = descriptors.next().into_iter().flatten();
    match (descriptors.next(), descriptors.next()) {
        (Some(input), Some(output)) => Ok(Some(ProxyStreams { input, output })),
        _ => Err(Errno::PROTO),
    }
}

/// Answer to an offer.
pub(crate) const ANSWER: &[u8] = &[ACCEPTED];
