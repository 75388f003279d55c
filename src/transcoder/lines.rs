//! Reads lines of a child's output, each truncated: a hostile file can make FFmpeg print anything.

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// Maximum length of a line, bytes; the rest is discarded.
pub(super) const LONGEST: usize = 2000;

/// Calls `take` with every line until the end of `reader`. A read error counts as the end.
pub(super) async fn each_line(mut reader: impl AsyncBufRead + Unpin, mut take: impl FnMut(&str)) {
    let mut line: Vec<u8> = Vec::new();
    while let Ok(chunk) = reader.fill_buf().await {
        if chunk.is_empty() {
            break;
        }
        let end = chunk.iter().position(|b| matches!(b, b'\n' | b'\r'));
        let part = &chunk[..end.unwrap_or(chunk.len())];
        line.extend_from_slice(&part[..part.len().min(LONGEST - line.len())]);
        let used = end.map_or(chunk.len(), |at| at + 1);
        reader.consume(used);
        if end.is_some() {
            take(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    if !line.is_empty() {
        take(&String::from_utf8_lossy(&line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        // A small buffer, so that lines span several reads.
        let reader = tokio::io::BufReader::with_capacity(7, text);
        each_line(reader, |line| found.push(line.to_owned())).await;
        found
    }

    #[tokio::test]
    async fn gives_every_line_and_the_unfinished_last_one() {
        assert_eq!(lines(b"a=1\nbb\r\nlong line here").await, ["a=1", "bb", "", "long line here"]);
        assert!(lines(b"").await.is_empty());
    }

    #[tokio::test]
    async fn an_endless_line_is_cut_and_the_next_one_is_whole() {
        let mut text = vec![b'x'; 100_000];
        text.extend_from_slice(b"\nnext\n\xff\n");
        let found = lines(&text).await;
        assert_eq!(found[0].len(), LONGEST);
        assert_eq!(found[1..], ["next", "\u{fffd}"]);
    }
}
