//! Upstash's REST interface in front of a Redis on this machine, for `wrangler dev`:
//!
//! ```sh
//! cargo run --example upstash -- redis://127.0.0.1:6379 127.0.0.1:8079
//! ```
#![allow(clippy::print_stdout)]

#[path = "../tests/it/support/upstash.rs"]
#[allow(dead_code, missing_docs, clippy::panic, clippy::unwrap_used)]
mod upstash;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let redis = args.next().unwrap_or_else(|| "redis://127.0.0.1:6379".into());
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:8079".into());
    let (router, _) = upstash::router(&redis).await?;
    let listener = tokio::net::TcpListener::bind(&listen).await?;
    println!("UPSTASH_REDIS_REST_URL=http://{}", listener.local_addr()?);
    println!("UPSTASH_REDIS_REST_TOKEN={}", upstash::TOKEN);
    axum::serve(listener, router).await?;
    Ok(())
}
