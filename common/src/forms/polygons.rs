//! The native form: the part of a result that is about the image.

use super::Picture;
use crate::wire;

pub(super) fn write(picture: &Picture<'_>) -> String {
    wire::objects_to_json(picture.image, picture.objects)
}
