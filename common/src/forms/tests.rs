//! Each form of one picture, as it was when it was last looked at.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};
use proptest::prelude::*;

use super::*;
use crate::{
    polygon::{BoundingBox, Point, Polygon, Ring},
    rle::Rle,
};

fn ring(corners: &[(u32, u32)]) -> Ring {
    let corners = corners.iter().map(|&(x, y)| Point { x, y });
    Ring::new(corners.collect()).expect("a ring")
}

fn polygon(exterior: &[(u32, u32)], holes: &[&[(u32, u32)]]) -> Polygon {
    let holes = holes.iter().map(|hole| ring(hole)).collect();
    Polygon::new(ring(exterior), holes).expect("windings are right")
}

/// A ring of eight pixels, and a labelled object of two pixels in two parts.
fn objects() -> Vec<Object> {
    let holed = Object {
        label: None,
        class_id: None,
        instance: None,
        score: None,
        bbox: BoundingBox {
            x: 0,
            y: 0,
            width: 3,
            height: 3,
        },
        area_px: 8,
        deviation_px: None,
        coco_rle: None,
        polygons: vec![polygon(
            &[(0, 0), (3, 0), (3, 3), (0, 3)],
            &[&[(1, 1), (1, 2), (2, 2), (2, 1)]],
        )],
    };
    let parts = Object {
        label: Some("<cell> & \"nucleus\"".to_owned()),
        class_id: Some(4),
        instance: Some(17),
        score: Some(0.5),
        bbox: BoundingBox {
            x: 4,
            y: 1,
            width: 4,
            height: 1,
        },
        area_px: 2,
        deviation_px: Some(0.25),
        coco_rle: None,
        polygons: vec![
            polygon(&[(4, 1), (5, 1), (5, 2), (4, 2)], &[]),
            polygon(&[(7, 1), (8, 1), (8, 2), (7, 2)], &[]),
        ],
    };
    vec![holed, parts]
}

fn image(width_px: u32, height_px: u32, format: &str) -> ImageInfo {
    ImageInfo {
        width_px,
        height_px,
        format: format.to_owned(),
        orientation: 1,
    }
}

fn write(form: Form, file: &[u8], format: &str) -> Document {
    let image = image(8, 4, format);
    let picture = Picture {
        id: 1,
        file_name: "a<b>.png",
        file,
        image: &image,
        objects: &objects(),
    };
    form.write(&picture).expect("it can be written")
}

fn check(form: Form, expected: &str) {
    let document = write(form, b"PNG", "png");
    let text = String::from_utf8(document.bytes).expect("text");
    assert_eq!(text, expected, "{form:?}");
}

fn grey(format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let image = RgbImage::from_pixel(8, 4, Rgb([100; 3]));
    image.write_to(&mut file, format).expect("it is written");
    file.into_inner()
}

#[test]
fn polygons_are_those_of_a_result() {
    check(
        Form::Polygons,
        concat!(
            r#"{"file":"a<b>.png","image":{"width":8,"height":4,"format":"png","orientation":1},"#,
            r#""objects":[{"bbox":[0,0,3,3],"area_px":8,"#,
            r#""polygons":[{"exterior":[[0,0],[3,0],[3,3],[0,3]],"holes":[[[1,1],[1,2],[2,2],[2,1]]]}]},"#,
            r#"{"label":"<cell> & \"nucleus\"","class_id":4,"instance":17,"score":0.5,"bbox":[4,1,4,1],"area_px":2,"#,
            r#""deviation_px":0.25,"#,
            r#""polygons":[{"exterior":[[4,1],[5,1],[5,2],[4,2]],"holes":[]},"#,
            r#"{"exterior":[[7,1],[8,1],[8,2],[7,2]],"holes":[]}]}]}"#,
            "\n"
        ),
    );
}

#[test]
fn coco_has_run_lengths_where_there_are_holes() {
    check(
        Form::Coco,
        concat!(
            r#"{"info":{},"licenses":[],"images":[{"id":1,"file_name":"a<b>.png","width":8,"height":4}],"#,
            r#""annotations":[{"id":1,"image_id":1,"category_id":1,"#,
            r#""segmentation":{"size":[4,8],"counts":"031N0002d0"},"#,
            r#""area":8,"bbox":[0,0,3,3],"iscrowd":0},"#,
            r#"{"id":2,"image_id":1,"category_id":2,"segmentation":[[4,1,5,1,5,2,4,2],[7,1,8,1,8,2,7,2]],"#,
            r#""area":2,"bbox":[4,1,4,1],"iscrowd":0,"score":0.5,"instance":17}],"#,
            r#""categories":[{"id":1,"name":"object","supercategory":""},"#,
            r#"{"id":2,"name":"<cell> & \"nucleus\"","supercategory":""}]}"#,
            "\n"
        ),
    );
    check(
        Form::Rle,
        concat!(
            r#"[{"id":1,"image_id":1,"category_id":1,"file_name":"a<b>.png","category_name":"object","#,
            r#""segmentation":{"size":[4,8],"counts":"031N0002d0"},"#,
            r#""area":8,"bbox":[0,0,3,3],"iscrowd":0},"#,
            r#"{"id":2,"image_id":1,"category_id":2,"file_name":"a<b>.png","category_name":"<cell> & \"nucleus\"","#,
            r#""segmentation":{"size":[4,8],"counts":"a01;0G"},"#,
            r#""area":2,"bbox":[4,1,4,1],"iscrowd":0,"score":0.5,"instance":17}]"#,
            "\n"
        ),
    );
}

#[test]
fn a_data_set_has_many_images_and_each_category_once() {
    let image = image(8, 4, "png");
    let mut data_set = DataSet::whole();
    for (id, file_name) in [(2, "two.png"), (1, "one.png")] {
        data_set.add(&Picture {
            id,
            file_name,
            file: b"",
            image: &image,
            objects: &objects(),
        });
    }
    let json: serde_json::Value = serde_json::from_str(&data_set.to_json()).expect("JSON");
    let column = |table: &str, key: &str| -> Vec<u64> {
        let rows = json[table].as_array().expect("a list").iter();
        rows.map(|row| row[key].as_u64().expect("a number"))
            .collect()
    };
    assert_eq!(column("images", "id"), [1, 2]);
    assert_eq!(column("annotations", "id"), [1, 2, 3, 4]);
    assert_eq!(column("annotations", "image_id"), [1, 1, 2, 2]);
    assert_eq!(column("annotations", "category_id"), [1, 2, 1, 2]);
    assert_eq!(column("categories", "id"), [1, 2]);
}

#[test]
fn geojson_repeats_the_first_position() {
    check(
        Form::GeoJson,
        concat!(
            r#"{"features":[{"geometry":{"coordinates":"#,
            r#"[[[[0,0],[3,0],[3,3],[0,3],[0,0]],[[1,1],[1,2],[2,2],[2,1],[1,1]]]],"type":"MultiPolygon"},"#,
            r#""properties":{"area_px":8,"classification":{"name":"object"},"objectType":"annotation"},"type":"Feature"},"#,
            r#"{"geometry":{"coordinates":[[[[4,1],[5,1],[5,2],[4,2],[4,1]]],[[[7,1],[8,1],[8,2],[7,2],[7,1]]]],"#,
            r#""type":"MultiPolygon"},"id":17,"properties":{"area_px":2,"class_id":4,"#,
            r#""classification":{"name":"<cell> & \"nucleus\""},"deviation_px":0.25,"#,
            r#""label":"<cell> & \"nucleus\"","objectType":"annotation","score":0.5},"type":"Feature"}],"#,
            r#""file":"a<b>.png","type":"FeatureCollection"}"#,
            "\n"
        ),
    );
}

#[test]
fn yolo_has_a_line_for_each_part_and_counts_the_holes() {
    check(
        Form::Yolo,
        "0 0 0 0.375 0 0.375 0.75 0 0.75\n\
         4 0.5 0.25 0.625 0.25 0.625 0.5 0.5 0.5\n\
         4 0.875 0.25 1 0.25 1 0.5 0.875 0.5\n",
    );
    assert_eq!(write(Form::Yolo, b"", "png").n_holes_lost, 1);
}

#[test]
fn labelme_has_a_mask_where_there_are_holes() {
    let text = String::from_utf8(write(Form::LabelMe, b"PNG", "png").bytes).expect("text");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mask = json["shapes"][0]["mask"].take();
    let file = base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        mask.as_str().expect("a text"),
    );
    let pixels = image::load_from_memory_with_format(&file.expect("base64"), ImageFormat::Png);
    assert_eq!(
        pixels.expect("a PNG").to_luma8().into_raw(),
        [255, 255, 255, 255, 0, 255, 255, 255, 255]
    );
    let label = "<cell> & \"nucleus\"";
    let shape = |label: &str, points: serde_json::Value, group: Option<u32>, kind: &str| {
        serde_json::json!({
            "label": label, "points": points, "group_id": group, "description": "",
            "shape_type": kind, "flags": {},
        })
    };
    let mut holed = shape("object", serde_json::json!([[0, 0], [2, 2]]), None, "mask");
    holed["mask"] = serde_json::Value::Null;
    let expected = serde_json::json!({
        "version": "5.5.0", "flags": {}, "imagePath": "a<b>.png", "imageData": "UE5H",
        "imageHeight": 4, "imageWidth": 8,
        "shapes": [
            holed,
            shape(label, serde_json::json!([[4, 1], [5, 1], [5, 2], [4, 2]]), Some(17), "polygon"),
            shape(label, serde_json::json!([[7, 1], [8, 1], [8, 2], [7, 2]]), Some(17), "polygon"),
        ],
    });
    assert_eq!(json, expected);
}

#[test]
fn svg_shows_the_file_and_escapes_names() {
    check(
        Form::Svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"8\" height=\"4\" viewBox=\"0 0 8 4\">\n\
         <title>a&lt;b&gt;.png</title>\n\
         <image width=\"8\" height=\"4\" href=\"data:image/png;base64,UE5H\"/>\n\
         <g fill-opacity=\"0.35\" fill-rule=\"evenodd\" stroke-width=\"1.5\" stroke-linejoin=\"round\">\n\
         <path d=\"M0,0 3,0 3,3 0,3ZM1,1 1,2 2,2 2,1Z\" fill=\"#e69f00\" stroke=\"#e69f00\" \
         vector-effect=\"non-scaling-stroke\"><title>object 1: 8 px</title></path>\n\
         <path d=\"M4,1 5,1 5,2 4,2ZM7,1 8,1 8,2 7,2Z\" fill=\"#56b4e9\" stroke=\"#56b4e9\" \
         vector-effect=\"non-scaling-stroke\">\
         <title>&lt;cell&gt; &amp; &quot;nucleus&quot; 17: 2 px</title></path>\n\
         </g>\n</svg>\n",
    );
}

#[test]
fn svg_shows_as_png_what_viewers_do_not_read() {
    let document = write(Form::Svg, &grey(ImageFormat::Tiff), "tiff");
    let text = String::from_utf8(document.bytes).expect("text");
    assert!(
        text.contains("href=\"data:image/png;base64,iVBORw0KGgo"),
        "{text}"
    );
}

#[test]
fn png_has_the_fill_within_the_outlines_only() {
    let document = write(Form::Png, &grey(ImageFormat::Png), "png");
    let picture = image::load_from_memory_with_format(&document.bytes, ImageFormat::Png);
    let picture = picture.expect("a PNG").to_rgb8();
    let plain = Rgb([100; 3]);
    for (x, y, pixel) in picture.enumerate_pixels() {
        let in_ring = x < 3 && y < 3 && (x, y) != (1, 1);
        let is_inside = in_ring || (x, y) == (4, 1) || (x, y) == (7, 1);
        assert_eq!(*pixel != plain, is_inside, "({x}, {y}) is {pixel:?}");
    }
}

/// `REGENERATE=1` writes the picture anew; look at it then.
#[test]
fn png_has_outlines_and_labels() {
    let triangle = Object {
        label: Some("Zelle".to_owned()),
        bbox: BoundingBox {
            x: 10,
            y: 10,
            width: 100,
            height: 70,
        },
        polygons: vec![polygon(&[(10, 10), (110, 30), (60, 80)], &[])],
        ..objects().swap_remove(0)
    };
    let frame = Object {
        bbox: BoundingBox {
            x: 120,
            y: 5,
            width: 70,
            height: 85,
        },
        polygons: vec![polygon(
            &[(120, 5), (190, 5), (190, 90), (120, 90)],
            &[&[(140, 40), (140, 70), (170, 70), (170, 40)]],
        )],
        ..objects().swap_remove(0)
    };
    let image = image(200, 100, "png");
    let mut file = Cursor::new(Vec::new());
    let shades = RgbImage::from_fn(200, 100, |x, _| Rgb([u8::try_from(x).expect("small"); 3]));
    shades
        .write_to(&mut file, ImageFormat::Png)
        .expect("it is written");
    let picture = Picture {
        id: 1,
        file_name: "shades.png",
        file: file.get_ref(),
        image: &image,
        objects: &[triangle, frame],
    };
    let drawn = Form::Png.write(&picture).expect("it can be drawn").bytes;
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/forms/golden/overlay.png");
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::write(golden, &drawn).expect("writable");
    }
    let golden = std::fs::read(golden).expect("the golden picture");
    let pixels = |file: &[u8]| {
        let picture = image::load_from_memory_with_format(file, ImageFormat::Png);
        picture.expect("a PNG").to_rgb8()
    };
    assert!(pixels(&drawn) == pixels(&golden), "REGENERATE=1, and look");
}

proptest! {
    #[test]
    fn run_lengths_come_back_as_the_counts_they_were(counts in prop::collection::vec(1u32..3000, 1..20)) {
        // A column of as many pixels, with every second run foreground.
        let mut y = 0;
        let mut polygons = Vec::new();
        for (index, count) in counts.iter().enumerate() {
            if index % 2 == 1 {
                polygons.push(polygon(&[(0, y), (1, y), (1, y + count), (0, y + count)], &[]));
            }
            y += count;
        }
        let rle = Rle::of_polygons(&polygons, 1, y);
        prop_assert_eq!(decompress(&rle.counts), counts);
    }
}

/// Source: `rleFrString` in pycocotools' `maskApi.c`.
fn decompress(text: &str) -> Vec<u32> {
    let mut counts: Vec<i64> = Vec::new();
    let mut bytes = text.bytes();
    while let Some(mut byte) = bytes.next() {
        let (mut count, mut shift) = (0i64, 0);
        loop {
            let chunk = byte - b'0';
            count |= i64::from(chunk & 0x1f) << shift;
            shift += 5;
            if chunk & 0x20 == 0 {
                if chunk & 0x10 != 0 {
                    count |= -1 << shift;
                }
                break;
            }
            byte = bytes.next().expect("another chunk");
        }
        let before = (counts.len() > 2).then(|| counts[counts.len() - 2]);
        counts.push(count + before.unwrap_or(0));
    }
    counts
        .into_iter()
        .map(|count| u32::try_from(count).expect("a length"))
        .collect()
}
