//! The Worker's entry points, which the platform calls. They are implemented in `tcoder::edge`.
#![cfg(target_arch = "wasm32")]

use axum::body::Body;
use axum::http::Response;
use worker::{Context, Env, HttpRequest, MessageBatch, ScheduleContext, ScheduledEvent, event};

#[event(start)]
fn start() {
    tcoder::edge::start();
}

#[event(fetch)]
async fn fetch(request: HttpRequest, env: Env, _: Context) -> worker::Result<Response<Body>> {
    Ok(tcoder::edge::fetch(request, env).await)
}

#[event(queue)]
async fn queue(batch: MessageBatch<()>, env: Env, _: Context) -> worker::Result<()> {
    tcoder::edge::queue(batch.raw_iter(), env).await;
    Ok(())
}

#[event(scheduled)]
async fn scheduled(event: ScheduledEvent, env: Env, _: ScheduleContext) {
    #[expect(clippy::cast_possible_truncation, reason = "milliseconds since 1970 fit")]
    let at = tcoder::job::Millis(event.schedule() as i64);
    tcoder::edge::scheduled(at, env).await;
}
