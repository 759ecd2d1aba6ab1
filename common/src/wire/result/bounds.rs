//! What a result's objects must be like, so that whoever draws or measures them needs no checks of their own.

use super::ReadError;
use crate::{
    limits::{RESULT_PIXELS, RESULT_SIDE_PX},
    polygon::Polygon,
    result::{ImageInfo, Object},
};

/// Checks that the objects lie in their image, and that such an image there can be.
pub(super) fn check(image: Option<&ImageInfo>, objects: &[Object]) -> Result<(), ReadError> {
    let Some(image) = image else {
        return if objects.is_empty() {
            Ok(())
        } else {
            Err(ReadError::Bounds("it has objects and no image".to_owned()))
        };
    };
    let (width, height) = (image.width_px, image.height_px);
    let n_pixels = u64::from(width) * u64::from(height);
    if n_pixels == 0 || n_pixels > RESULT_PIXELS || width.max(height) > RESULT_SIDE_PX {
        return Err(ReadError::Bounds(format!(
            "its image is {width}x{height} px"
        )));
    }
    match objects
        .iter()
        .position(|object| !is_within(object, width, height))
    {
        Some(index) => Err(ReadError::Bounds(format!(
            "object {} is not within the image of {width}x{height} px",
            index + 1
        ))),
        None => Ok(()),
    }
}

fn is_within(object: &Object, width: u32, height: u32) -> bool {
    let bbox = object.bbox;
    let end = |start: u32, length: u32| u64::from(start) + u64::from(length);
    let is_box = bbox.width > 0
        && bbox.height > 0
        && end(bbox.x, bbox.width) <= width.into()
        && end(bbox.y, bbox.height) <= height.into();
    let rings = object.polygons.iter().flat_map(Polygon::rings);
    let mut vertices = rings.flat_map(|ring| ring.vertices());
    let rle = object.coco_rle.as_ref();
    is_box
        && vertices.all(|vertex| vertex.x <= width && vertex.y <= height)
        && rle.is_none_or(|rle| (rle.width_px, rle.height_px) == (width, height))
}

#[cfg(test)]
mod tests {
    use crate::wire::{JSON, read_result};

    #[test]
    fn objects_outside_their_image_are_refused() {
        let image = r#""image":{"width":4,"height":2,"format":"png","orientation":1}"#;
        let object = |entries: &str| format!(r#"{image},"objects":[{{"area_px":1,{entries}}}]"#);
        let outside = "object 1 is not within the image of 4x2 px";
        let ring = r#"{"exterior":[[0,0],[5,0],[5,1]]}"#;
        let cases = [
            (
                r#""objects":[{"area_px":1,"bbox":[0,0,1,1]}]"#.to_owned(),
                "it has objects and no image",
            ),
            (image.replace('4', "0"), "its image is 0x2 px"),
            (
                image.replace('4', "4000000000"),
                "its image is 4000000000x2 px",
            ),
            (object(r#""bbox":[0,0,0,1]"#), outside),
            (object(r#""bbox":[3,0,2,1]"#), outside),
            (object(r#""bbox":[4294967295,0,4294967295,1]"#), outside),
            (
                object(&format!(r#""bbox":[0,0,1,1],"polygons":[{ring}]"#)),
                outside,
            ),
            (
                object(r#""bbox":[0,0,1,1],"coco_rle":{"size":[9,9],"counts":""}"#),
                outside,
            ),
        ];
        for (entries, expected) in cases {
            let text = format!(r#"{{"v":1,"id":"j","tenant":"public","status":"ok",{entries}}}"#);
            let error = read_result(Some(JSON), text.as_bytes()).expect_err(&text);
            assert_eq!(error.to_string(), format!("not a result: {expected}"));
        }
    }
}
