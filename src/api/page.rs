//! The web page: serves the files in `web/` unchanged. For the Worker, Cloudflare serves the same files.

use std::sync::LazyLock;

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};
use tower_http::compression::CompressionLayer;

use super::problem;
use crate::hex::hex;

/// A file of the web page.
struct File {
    path: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($($path:literal)*) => {
        &[$(File { path: $path, bytes: include_bytes!(concat!("../../web/", $path)) }),*]
    };
}

const FILES: &[File] = files! {
    "index.html"
    "icon.svg"
    "openapi.json"
    "reference.html"
    "style.css"
    "app/api.js"
    "app/choices.js"
    "app/dom.js"
    "app/format.js"
    "app/history.js"
    "app/job.js"
    "app/main.js"
    "app/operate.js"
    "app/pictures.js"
    "app/player.js"
    "app/reference.js"
    "app/transcode.js"
    "app/upload.js"
    "vendor/hls.min.mjs"
};

/// The headers that Cloudflare adds to the same files, in Cloudflare's format.
const HEADERS: &str = include_str!("../../web/_headers");

/// The headers that `web/_headers` defines for every path.
static COMMON: LazyLock<Vec<(HeaderName, HeaderValue)>> = LazyLock::new(|| {
    let lines = HEADERS.lines().filter_map(|line| line.trim().split_once(": "));
    lines.filter_map(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?))).collect()
});

/// The entity tag of each file, in the order of [`FILES`].
static TAGS: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| {
    let tag = |file: &File| {
        let hash = Sha256::digest(file.bytes);
        HeaderValue::try_from(format!("\"{}\"", hex(&hash[..12])))
            .unwrap_or(HeaderValue::from_static("\"0\""))
    };
    FILES.iter().map(tag).collect()
});

/// The routes of the web page, and the response to all unknown paths.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().fallback(page).layer(CompressionLayer::new())
}

async fn page(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let path = match uri.path().trim_start_matches('/') {
        "" => "index.html",
        "reference" => "reference.html",
        path => path,
    };
    let found = FILES
        .iter()
        .position(|file| file.path == path)
        .filter(|_| matches!(method, Method::GET | Method::HEAD));
    let Some(at) = found else { return problem::no_such_route(uri).await.into_response() };
    let (file, tag) = (&FILES[at], &TAGS[at]);
    let is_known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag);
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, content_type(path))], file.bytes).into_response()
    };
    response.headers_mut().extend(COMMON.iter().cloned());
    response.headers_mut().insert(header::ETAG, tag.clone());
    response
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn below(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                below(&entry.path(), &format!("{name}/"), found);
            } else {
                found.insert(name);
            }
        }
    }

    #[test]
    fn page_serves_every_file_in_web() {
        let mut there = BTreeSet::new();
        below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("web"), "", &mut there);
        let for_us =
            |name: &String| !name.ends_with("README.md") && !name.ends_with("LICENSE") && name != "_headers";
        let there: BTreeSet<String> = there.into_iter().filter(for_us).collect();
        let served: BTreeSet<String> = FILES.iter().map(|file| file.path.to_owned()).collect();
        assert_eq!(served, there);
        assert!(FILES.iter().all(|file| content_type(file.path) != "application/octet-stream"));
    }

    #[test]
    fn page_content_security_policy_allows_only_own_scripts() {
        let policy = COMMON.iter().find(|(name, _)| name == "content-security-policy").unwrap();
        let policy = policy.1.to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(COMMON.len(), 4);
    }

    #[test]
    fn page_scripts_never_write_markup() {
        for file in FILES.iter().filter(|file| file.path.starts_with("app/")) {
            let text = std::str::from_utf8(file.bytes).unwrap();
            for risky in ["innerHTML =", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!text.contains(risky), "{}: {risky}", file.path);
            }
        }
        let html = std::str::from_utf8(FILES[0].bytes).unwrap();
        assert!(
            !html.contains("style=") && !html.contains("onclick") && html.matches("<script").count() == 1
        );
    }

    #[tokio::test]
    async fn page_cached_file_is_304_and_unknown_path_is_a_problem() {
        let get = async |path: &'static str, headers: HeaderMap| {
            page(Method::GET, path.parse().unwrap(), headers).await
        };
        let first = get("/", HeaderMap::new()).await;
        assert_eq!(
            (first.status(), &first.headers()["content-type"]),
            (StatusCode::OK, &HeaderValue::from_static("text/html; charset=utf-8"))
        );
        let tag = first.headers()["etag"].clone();
        let again = get("/index.html", HeaderMap::from_iter([(header::IF_NONE_MATCH, tag)])).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(get("/nothing", HeaderMap::new()).await.status(), StatusCode::NOT_FOUND);
        assert_eq!(get("/../Cargo.toml", HeaderMap::new()).await.status(), StatusCode::NOT_FOUND);
    }
}
