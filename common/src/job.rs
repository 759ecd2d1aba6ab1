//! A job as the code sees it: an image, [`Options`], and metadata to echo.
//!
//! The job's identity (tenant and id) and its model are not here: they are tokens of its subject
//! ([`crate::subject::JobSubject`]), never part of what a payload may say. No serialisation either: see
//! [`crate::wire`].

use bytes::Bytes;

/// One request to segment one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The image file as it is: JPEG, PNG, WebP, TIFF, BMP or GIF.
    pub image: Bytes,
    /// What the client wants of the outlines.
    pub options: Options,
    /// Anything of the client's, echoed in the result.
    pub metadata: Option<Metadata>,
}

/// What the client wants of the outlines. Every field has a default, so a job needs none.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Objects smaller than this are left out, in pixels.
    pub min_area_px: u64,
    /// Which neighbours belong to one object.
    pub connectivity: Connectivity,
    /// How far outlines may be simplified, in pixels; 0 keeps them exact.
    pub simplify_px: f64,
    /// Most vertices of one object; `None` keeps all.
    pub max_vertices: Option<u32>,
    /// Objects scored lower are left out, 0 to 1; for models that score.
    pub score_threshold: Option<f64>,
    /// How outlines are written.
    pub forms: Forms,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            min_area_px: 1,
            connectivity: Connectivity::Eight,
            simplify_px: 0.0,
            max_vertices: None,
            score_threshold: None,
            forms: Forms {
                polygons: true,
                coco_rle: false,
            },
        }
    }
}

/// Which foreground pixels belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connectivity {
    /// Those that share an edge.
    Four,
    /// Those that share an edge or a corner.
    Eight,
}

/// How outlines are written; at least one is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forms {
    /// As polygons with holes.
    pub polygons: bool,
    /// As COCO's compressed run lengths.
    pub coco_rle: bool,
}

/// Any MessagePack map of at most [`crate::limits::METADATA_BYTES`].
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata(Vec<(rmpv::Value, rmpv::Value)>);

impl Metadata {
    /// Takes the entries as they are; whoever reads foreign bytes has checked size and depth before.
    pub(crate) fn from_entries(entries: Vec<(rmpv::Value, rmpv::Value)>) -> Self {
        Self(entries)
    }

    /// Makes metadata of one text under one key.
    ///
    /// ```
    /// use segfleet_common::job::Metadata;
    ///
    /// let metadata = Metadata::text("file", "coins.png");
    /// assert_eq!(metadata.find_text("file"), Some("coins.png"));
    /// ```
    #[must_use]
    pub fn text(key: &str, value: &str) -> Self {
        Self(vec![(key.into(), value.into())])
    }

    /// The entries in the client's order.
    #[must_use]
    pub fn entries(&self) -> &[(rmpv::Value, rmpv::Value)] {
        &self.0
    }

    /// The text under `key`, if there is one.
    #[must_use]
    pub fn find_text(&self, key: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(name, _)| name.as_str() == Some(key))?;
        value.as_str()
    }
}
