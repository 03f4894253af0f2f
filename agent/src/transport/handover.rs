//! A proxy's standard streams, given to the agent, so that between the container runtime and the agent nobody copies bytes. The
//! proxy's end of the socket then only says that it lives. `commands::proxy` offers, `connection` takes.

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

/// What the descriptors ride on: HTTP/2 begins with another byte.
const OFFER: u8 = 0;
/// The answer; an agent that knows no offers begins HTTP/2, or ends the connection.
const ACCEPTED: u8 = 1;
/// As much as Linux grants without a privilege: the runtime and the agent then take turns less often.
const PIPE_SIZE: usize = 1 << 20;

/// The proxy's streams.
#[derive(Debug)]
pub(crate) struct ProxyStreams {
    pub(crate) input: OwnedFd,
    pub(crate) output: OwnedFd,
}

/// Whether the agent took them. If not, the connection is of no more use.
pub(crate) fn offer(mut agent: &UnixStream, input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> io::Result<bool> {
    let descriptors = [input, output];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Ok(false);
    }
    for descriptor in descriptors {
        // Where the system grants less, it works as well.
        let _ = fcntl_setpipe_size(descriptor, PIPE_SIZE);
    }
    sendmsg(agent, &[IoSlice::new(&[OFFER])], &mut control, SendFlags::NOSIGNAL)?;
    let mut answer = [0];
    Ok(agent.read(&mut answer)? == 1 && answer[0] == ACCEPTED)
}

/// Whether both are pipes, which the agent can wait for.
pub(crate) fn are_pipes(input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> bool {
    let is_pipe =
        |descriptor| fstat(descriptor).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    is_pipe(input) && is_pipe(output)
}

/// What was offered with the first byte, if that is an offer; for a socket that does not block.
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

/// The answer to an offer, as bytes.
pub(crate) const ANSWER: &[u8] = &[ACCEPTED];
