//! The README's way from an ONNX file to polygons, as it is printed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    agreement::graphs,
    found::{found_by, run},
    program::PROGRAM,
};

/// The blocks of the README in this language.
fn blocks(language: &str) -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).expect("the README");
    let start = format!("```{language}\n");
    let blocks = readme
        .split(&start)
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    blocks.map(str::to_owned).collect()
}

#[test]
#[ignore = "needs fetched models; run by deploy/test"]
fn models_of_each_head_go_from_an_onnx_file_to_polygons_in_five_commands() {
    let graphs = graphs();
    let small = |name: &str| {
        let image = graphs.path().join("images").join(name);
        (
            graphs.path().join("packages").join(name),
            image.with_extension("png"),
        )
    };
    let real = |name: &str, photograph: &str| {
        let photographs = found_by("models/find-photographs", &[]);
        (
            found_by("models/find-models", &[]).join(name),
            photographs.join(photograph),
        )
    };
    let (commands, manifests) = (blocks("bash"), blocks("toml"));
    assert_eq!((commands.len(), commands[0].lines().count()), (1, 5));
    let networks = [
        ("binary", real("u2netp", "camera.png"), 1),
        ("text", real("text", "page.png"), 6),
        ("semantic", small("semantic"), 2),
        ("yolo-seg", small("yolo-seg"), 5),
    ];
    assert_eq!(manifests.len(), networks.len());
    for (manifest, (head, (package, image), n_objects)) in manifests.iter().zip(networks) {
        assert!(
            manifest.contains(&format!("head = \"{head}\"")),
            "{manifest}"
        );
        let folder = follow(&commands[0], manifest, &package, &image);
        let polygons = fs::read(folder.path().join("polygons.geojson")).expect("written");
        let polygons: Value = serde_json::from_slice(&polygons).expect("JSON");
        let features = polygons["features"].as_array().map(Vec::len);
        assert_eq!(features, Some(n_objects), "{head}");
        assert!(folder.path().join("picture.png").exists());
    }
}

/// Runs the commands in a folder that has a network and a photograph, with an editor that writes the manifest.
fn follow(commands: &str, manifest: &str, package: &Path, photograph: &Path) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    fs::copy(package.join("model.onnx"), path("network.onnx")).expect("a network");
    fs::copy(photograph, path("photo.png")).expect("a photograph");
    fs::write(path("manifest"), manifest).expect("writable");
    let programs = [
        Path::new(PROGRAM).parent().expect("a folder").into(),
        PathBuf::from("/usr/bin"),
        "/bin".into(),
    ];
    let mut shell = Command::new("bash");
    shell
        .args(["-euc", commands])
        .current_dir(folder.path())
        .env("PATH", env::join_paths(programs).expect("no colon in it"))
        .env("EDITOR", "cp manifest");
    run(&mut shell);
    folder
}
