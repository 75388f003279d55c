//! What playlists and manifests name.

/// What a document names, relative to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A document of the same kind, which names further files.
    Document(String),
    /// Any other file.
    File(String),
}

impl Reference {
    /// Its address, relative to the document.
    #[must_use]
    pub fn uri(&self) -> &str {
        let (Self::Document(uri) | Self::File(uri)) = self;
        uri
    }
}
