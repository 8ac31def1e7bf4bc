//! What comes from clients of the server: raw bytes, paths with the token, headers without it. Nobody who lacks the
//! token sees a guest's name, and every connection ends.

use std::cell::RefCell;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use vgpu_perception_serve::{Access, Limits, Server, Source, Token};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// In the answers to those with the token, and in no other.
const SECRET: &str = "guest-of-nobody";

struct Bench {
    runtime: Runtime,
    server: Server,
}

thread_local! {
    static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
}

fn bench() -> Bench {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let source = Source { name: SECRET.into(), key: "1".into(), attach: Box::new(|| Err("it is not there".into())) };
    let access = Access::loopback(Token::new(TOKEN).expect("a token"), 80);
    let server = Server::new(vec![source], None, access, Limits::default().seconds(1)).expect("a server");
    Bench { runtime, server }
}

/// The first byte says what the rest is.
pub fn requests(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let (before, after): (&[u8], String) = match kind % 4 {
        0 => (b"", String::new()),
        1 => (
            b"GET /",
            format!(" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"),
        ),
        2 => (b"GET /guests HTTP/1.1\r\nHost: localhost\r\n", "\r\nConnection: close\r\n\r\n".into()),
        _ => (b"GET /guests?", " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".into()),
    };
    let request = [before, rest, after.as_bytes()].concat();
    let knows = request.windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes());
    // A stream does not end.
    if knows && request.windows(6).any(|part| part == b"stream") {
        return;
    }
    let answer = BENCH.with_borrow_mut(|bench_slot| {
        let bench = bench_slot.get_or_insert_with(bench);
        let (mut client, io) = tokio::io::duplex(1 << 20);
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().ok();
        let connection = bench.server.connection(io, place);
        bench.runtime.block_on(async move {
            let ask = async move {
                let mut answer = Vec::new();
                let _ = client.write_all(&request).await;
                let _ = client.shutdown().await;
                let _ = client.read_to_end(&mut answer).await;
                answer
            };
            tokio::join!(connection, ask).1
        })
    });
    assert!(answer.len() < 1 << 20, "{} bytes are no answer", answer.len());
    if !knows {
        let told = answer.windows(SECRET.len()).any(|part| part == SECRET.as_bytes());
        assert!(!told, "a guest was named to nobody: {}", String::from_utf8_lossy(&answer));
        let good = answer.windows(12).any(|part| part == b"HTTP/1.1 200");
        assert!(!good, "answered without a token: {}", String::from_utf8_lossy(&answer));
    }
}
