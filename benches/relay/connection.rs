//! One sender's connection: HTTP/1.1 written and read by hand, so that a request costs little more than its two system
//! calls and the machine is left to what is measured.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection that opens again after an error.
#[derive(Debug)]
pub(crate) struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    answer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { address, stream: Some(connect(address).await?), answer: Vec::with_capacity(4096) })
    }

    /// Sends a whole request and reads the whole answer; gives its status.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        let outcome = self.attempt(request).await;
        if outcome.is_err() {
            self.stream = None;
        }
        outcome
    }

    async fn attempt(&mut self, request: &[u8]) -> io::Result<u16> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(connect(self.address).await?),
        };
        stream.write_all(request).await?;
        self.answer.clear();
        loop {
            if stream.read_buf(&mut self.answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match head(&self.answer)? {
                Some((status, length)) if self.answer.len() >= length => return Ok(status),
                _ => {}
            }
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The status and the whole length of an answer, once its head is there.
fn head(answer: &[u8]) -> io::Result<Option<(u16, usize)>> {
    const LENGTH: &[u8] = b"content-length:";
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let number = |text: &[u8]| str::from_utf8(text).ok()?.trim().parse::<usize>().ok();
    let status = answer.get(9..12).and_then(number).and_then(|status| u16::try_from(status).ok());
    let body = answer[..end].split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(LENGTH.len())?;
        name.eq_ignore_ascii_case(LENGTH).then(|| number(value))?
    });
    match (status, body) {
        (Some(status), Some(body)) => Ok(Some((status, end + 4 + body))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "an answer without status or length")),
    }
}
