//! One page of a listing: prefix, delimiter, marker and limit, over rows in the order of their keys' bytes. Pure.

use s3s::S3Result;

/// The parameters of a listing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query<'a> {
    /// Selects keys with this prefix.
    pub prefix: &'a str,
    /// Keys that are equal from the prefix to the next delimiter become one entry. Empty: none do.
    pub delimiter: &'a str,
    /// Selects rows after this one.
    pub after: &'a [u8],
    /// The key of that row, or the common prefix that was last on the previous page.
    pub marker: &'a [u8],
    /// Maximum number of entries.
    pub max: usize,
}

/// An entry of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry<V> {
    /// A row.
    Row(V),
    /// The common prefix of several keys.
    Prefix(String),
}

/// A page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page<V> {
    pub entries: Vec<Entry<V>>,
    /// The next page starts after this; `None` on the last page.
    pub next: Option<Vec<u8>>,
}

/// A row: the bytes that determine its order, which start with the key, and its value.
pub(super) trait Row {
    /// The bytes that determine the order.
    fn sort_key(&self) -> &[u8];
    /// The key.
    fn key(&self) -> &[u8];
}

/// Builds a page. `rows` returns the rows at or after its argument, in order.
pub(super) fn page<V, R: Row, I: Iterator<Item = S3Result<R>>>(
    query: Query<'_>,
    rows: impl Fn(&[u8]) -> S3Result<I>,
    read: impl Fn(R) -> S3Result<V>,
) -> S3Result<Page<V>> {
    let mut page = Page { entries: Vec::new(), next: None };
    if query.max == 0 {
        return Ok(page);
    }
    let mut from = query.after.to_vec();
    if !from.is_empty() {
        // The smallest value that sorts after it.
        from.push(0);
    }
    from = from.max(query.prefix.as_bytes().to_vec());
    let mut last = Vec::new();
    'seek: loop {
        for row in rows(&from)? {
            let row = row?;
            if !row.key().starts_with(query.prefix.as_bytes()) {
                break 'seek;
            }
            let common = common_prefix(row.key(), query.prefix, query.delimiter);
            if let Some(common) = &common {
                from = after_all_with(common);
                if common == query.marker {
                    // This common prefix was on the previous page.
                    continue 'seek;
                }
            }
            if page.entries.len() == query.max {
                page.next = Some(last);
                break 'seek;
            }
            match common {
                Some(common) => {
                    page.entries.push(Entry::Prefix(String::from_utf8_lossy(&common).into_owned()));
                    last = common;
                    continue 'seek;
                }
                None => {
                    last = row.sort_key().to_vec();
                    page.entries.push(Entry::Row(read(row)?));
                }
            }
        }
        break;
    }
    Ok(page)
}

/// The key up to and including the first delimiter after the prefix.
fn common_prefix(key: &[u8], prefix: &str, delimiter: &str) -> Option<Vec<u8>> {
    let rest = key.get(prefix.len()..)?;
    let delimiter = delimiter.as_bytes();
    if delimiter.is_empty() {
        return None;
    }
    let at = rest.windows(delimiter.len()).position(|window| window == delimiter)?;
    Some(key[..prefix.len() + at + delimiter.len()].to_vec())
}

/// The smallest value that sorts after everything with this prefix. UTF-8 never contains the byte 255, so the last
/// byte has a successor.
fn after_all_with(prefix: &[u8]) -> Vec<u8> {
    let mut next = prefix.to_vec();
    if let Some(byte) = next.last_mut() {
        *byte = byte.saturating_add(1);
    }
    next
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    struct Key(String);

    impl Row for Key {
        fn sort_key(&self) -> &[u8] {
            self.0.as_bytes()
        }

        fn key(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }

    fn list(keys: &BTreeSet<String>, query: Query<'_>) -> Page<String> {
        let rows = |from: &[u8]| {
            let from = from.to_vec();
            Ok(keys.iter().filter(move |key| key.as_bytes() >= &from[..]).map(|key| Ok(Key(key.clone()))))
        };
        page(query, rows, |key: Key| Ok(key.0)).unwrap()
    }

    /// All entries, by the definition.
    fn all(keys: &BTreeSet<String>, prefix: &str, delimiter: &str) -> Vec<Entry<String>> {
        let mut entries = Vec::new();
        for key in keys.iter().filter(|key| key.starts_with(prefix)) {
            let rest = &key[prefix.len()..];
            let entry = match rest.find(delimiter) {
                Some(at) if !delimiter.is_empty() => {
                    Entry::Prefix(key[..prefix.len() + at + delimiter.len()].to_owned())
                }
                _ => Entry::Row(key.clone()),
            };
            if entries.last() != Some(&entry) {
                entries.push(entry);
            }
        }
        entries
    }

    proptest! {
        #[test]
        fn listing_pages_of_any_size_add_up_to_the_whole(
            keys in proptest::collection::btree_set("[a!/0é\u{10ffff}]{1,6}", 0..40),
            prefix in "[a/é]{0,2}",
            delimiter in "[/a]{0,2}",
            max in 1_usize..5,
        ) {
            let mut entries = Vec::new();
            let mut after = Vec::new();
            loop {
                let query = Query { prefix: &prefix, delimiter: &delimiter, after: &after, marker: &after, max };
                let page = list(&keys, query);
                prop_assert!(page.entries.len() <= max);
                entries.extend(page.entries);
                match page.next {
                    Some(next) => after = next,
                    None => break,
                }
            }
            prop_assert_eq!(entries, all(&keys, &prefix, &delimiter));
        }
    }

    #[test]
    fn listing_reads_at_most_one_row_more_than_its_entries() {
        let keys: BTreeSet<String> = (0..1000).map(|n| format!("{}/{n:03}", n / 500)).collect();
        let read = Cell::new(0);
        let rows = |from: &[u8]| {
            let from = from.to_vec();
            let read = &read;
            Ok(keys.iter().filter(move |key| key.as_bytes() >= &from[..]).map(move |key| {
                read.set(read.get() + 1);
                Ok(Key(key.clone()))
            }))
        };
        let query = Query { prefix: "", delimiter: "/", after: b"", marker: b"", max: 1000 };
        let folders = page(query, rows, |key: Key| Ok(key.0)).unwrap();
        assert_eq!(folders.entries, [Entry::Prefix("0/".into()), Entry::Prefix("1/".into())]);
        assert_eq!(read.replace(0), 2);
        let query = Query { prefix: "1/99", delimiter: "", after: b"", marker: b"", max: 1000 };
        assert_eq!(page(query, rows, |key: Key| Ok(key.0)).unwrap().entries.len(), 10);
        assert!(read.get() <= 11);
    }

    #[test]
    fn listing_with_limit_zero_is_an_empty_last_page() {
        let keys = BTreeSet::from(["a".to_owned()]);
        let page = list(&keys, Query { prefix: "", delimiter: "", after: b"", marker: b"", max: 0 });
        assert_eq!(page, Page { entries: Vec::new(), next: None });
    }
}
