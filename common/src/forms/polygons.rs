//! The native form: the part of a result that is about the image, with the name of its file.

use super::Picture;
use crate::wire;

pub(super) fn write(picture: &Picture<'_>) -> String {
    wire::objects_to_json(picture.file_name, picture.image, picture.objects)
}
