//! What a JPEG's markers tell before it is decoded: whether it is whole, and whether it is progressive.
//!
//! Decodes nothing. What is no JPEG as the standard has it is left to the decoder to refuse.
//!
//! Source: ITU-T T.81, annex B.

use crate::result::{ErrorCode, JobError};

/// Start of scan: compressed data follow its header.
const SOS: u8 = 0xda;
/// End of image.
const EOI: u8 = 0xd9;
/// Start of frame, of a progressive one with Huffman and with arithmetic coding.
const SOF_PROGRESSIVE: [u8; 2] = [0xc2, 0xca];

/// What the markers tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Walked {
    /// The image comes in several scans, which a decoder keeps until the last.
    pub(super) is_progressive: bool,
}

/// Walks from marker to marker. What comes after the image, such as a film, is not looked at, and neither is what
/// segments contain, such as a thumbnail.
///
/// # Errors
/// `image_unreadable` for a file that ends before its image: a decoder would fill the rest with grey.
pub(super) fn walk(file: &[u8]) -> Result<Walked, JobError> {
    let mut is_progressive = false;
    // After the start of the image.
    let mut at = 2;
    let mut in_scan = false;
    loop {
        let marker = if in_scan {
            let Some(next) = next_marker(file, at) else {
                return Err(cut_off(file.len()));
            };
            at = next;
            file[at + 1]
        } else {
            match file.get(at..at + 2) {
                Some(&[0xff, marker]) => marker,
                Some(_nonsense) => return Ok(Walked { is_progressive }),
                None => return Err(cut_off(file.len())),
            }
        };
        match marker {
            EOI => return Ok(Walked { is_progressive }),
            // Fill bytes may stand before a marker, and these have no length.
            0xff => at += 1,
            0x01 | 0xd0..=0xd7 => at += 2,
            _ => {
                is_progressive |= SOF_PROGRESSIVE.contains(&marker);
                let Some(&[high, low]) = file.get(at + 2..at + 4) else {
                    return Err(cut_off(file.len()));
                };
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
                in_scan |= marker == SOS;
            }
        }
    }
}

/// The place of the next marker in compressed data: 0xff, and then neither 0 nor a restart.
fn next_marker(file: &[u8], from: usize) -> Option<usize> {
    let mut pairs = file.get(from..)?.windows(2);
    let found =
        pairs.position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xd0..=0xd7 | 0xff));
    found.map(|offset| from + offset)
}

fn cut_off(n_bytes: usize) -> JobError {
    let message = format!("the JPEG is cut off: its {n_bytes} bytes end before the image does");
    JobError::new(ErrorCode::ImageUnreadable, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment with a thumbnail's markers in it, a frame, a scan with a restart and a stuffed 0xff, and the end.
    fn file(frame: u8) -> Vec<u8> {
        let parts: [&[u8]; 6] = [
            &[0xff, 0xd8],
            &[0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9],
            &[0xff, frame, 0, 3, 8],
            &[0xff, SOS, 0, 3, 0],
            &[1, 0xff, 0, 2, 0xff, 0xd0, 3],
            &[0xff, EOI],
        ];
        parts.concat()
    }

    #[test]
    fn only_the_image_counts() {
        let whole = file(0xc0);
        assert_eq!(
            walk(&whole),
            Ok(Walked {
                is_progressive: false
            })
        );
        assert_eq!(
            walk(&file(0xc2)),
            Ok(Walked {
                is_progressive: true
            })
        );
        // A film behind the image, or a second scan before its end.
        let film = [&whole, &b"film \xff\xda more \xff\xd9"[..]].concat();
        assert_eq!(walk(&film), walk(&whole));
        let scans = [
            &file(0xc2)[..27],
            &[0xff, 0xc4, 0, 2, 0xff, SOS, 0, 2, 7, 0xff, EOI],
        ]
        .concat();
        assert_eq!(
            walk(&scans),
            Ok(Walked {
                is_progressive: true
            })
        );
    }

    #[test]
    fn what_ends_before_its_image_is_cut_off() {
        let whole = file(0xc0);
        for n_bytes in 2..whole.len() {
            assert!(walk(&whole[..n_bytes]).is_err(), "{n_bytes}");
        }
        let trailer = [&whole[..whole.len() - 2], b"trailer"].concat();
        assert!(walk(&trailer).is_err());
    }
}
