//! Packets with descriptors on a pair of Unix sockets, with a limit on the time of each call. Knows nothing of their content; `interpreter`
//! sends and receives them on a thread that may block.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size, set_socket_send_buffer_size, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recvmsg, sendmsg, socketpair,
};

/// Longest packet in bytes: a list of paths.
const LONGEST: usize = 128 << 10;
/// Time that a peer may take to accept a packet.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// One end of a pair of sockets.
#[derive(Debug)]
pub(super) struct Packets(OwnedFd);

impl Packets {
    /// Makes a pair, and returns this end and the peer's.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (own, peer) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&own, Timeout::Send, Some(SEND_TIMEOUT))?;
        // The defaults suffice where the system refuses: they are larger.
        let _ = set_socket_send_buffer_size(&peer, LONGEST);
        let _ = set_socket_recv_buffer_size(&own, LONGEST);
        Ok((Self(own), peer))
    }

    pub(super) fn send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(&self.0, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for a packet; an empty one is the end. `Err` after `timeout`, and for a packet that is too long.
    pub(super) fn receive(&self, timeout: Duration) -> io::Result<Vec<u8>> {
        set_socket_timeout(&self.0, Timeout::Recv, Some(timeout))?;
        let mut packet = vec![0; LONGEST];
        let length = loop {
            let received = recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut packet)],
                &mut Default::default(),
                RecvFlags::empty(),
            );
            match received {
                Err(rustix::io::Errno::INTR) => {}
                Ok(received) if received.flags.contains(ReturnFlags::TRUNC) => {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                other => break other?.bytes,
            }
        };
        packet.truncate(length);
        Ok(packet)
    }
}
