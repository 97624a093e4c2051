//! A line to the server that passes only so many bytes a second: a database that gives less than the processors could take.
//!
//! Where server, client and storage share two processors, everything that works beside `pg_dump` slows it, however well it overlaps.
//! Behind a slow line the processors are free, and what is left is whether Holdfast waits where it need not.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, lookup_host},
    time::{Instant, sleep_until},
};

/// What passes in a second from the server, of each connection.
const BYTES_PER_SECOND: f64 = 60e6;

/// Listens on a port of loopback, which it gives back, and passes connections on for as long as the runtime lives.
pub async fn open(host: &str, port: u16) -> Result<u16> {
    // A server reached through its socket listens on loopback too.
    let host = if host.starts_with('/') { "127.0.0.1" } else { host };
    let server = lookup_host((host, port)).await?.next().context("the server has no address")?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass(client, server));
        }
    });
    Ok(at)
}

async fn pass(client: TcpStream, server: SocketAddr) -> Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = vec![0; 256 << 10];
    let mut free_at = Instant::now();
    loop {
        let read = from_server.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        to_client.write_all(&buffer[..read]).await?;
        free_at = free_at.max(Instant::now()) + Duration::from_secs_f64(read as f64 / BYTES_PER_SECOND);
        sleep_until(free_at).await;
    }
}
