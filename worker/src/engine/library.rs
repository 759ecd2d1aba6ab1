//! Finding the ONNX Runtime library, and loading it once for the whole process.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::{EngineArgs, QUIET, onnxruntime::Library};

/// How its file begins; after it comes nothing or a version.
const FILE_NAME: &str = "libonnxruntime.so";

/// A process can load one library once, and keeps it.
static LOADED: Mutex<Option<&'static Library>> = Mutex::new(None);

/// Loads the library that `args` name, or the first that is found; one that was loaded before stays.
///
/// # Errors
/// What is wrong with the library, or where there is none.
pub(super) fn load(args: &EngineArgs) -> Result<&'static Library, String> {
    let mut loaded = LOADED
        .lock()
        .map_err(|_poisoned| "loading it has crashed before".to_owned())?;
    if let Some(library) = *loaded {
        return Ok(library);
    }
    if !args.is_quiet() {
        let (name, value) = QUIET;
        return Err(format!(
            "it would send usage data; {name}={value} must be in the environment"
        ));
    }
    let library: &'static Library = Box::leak(Box::new(find(args)?));
    *loaded = Some(library);
    Ok(library)
}

fn find(args: &EngineArgs) -> Result<Library, String> {
    if let Some(path) = &args.onnxruntime {
        return Library::open(path);
    }
    let mut folders = vec![beside_program()];
    folders.extend(args.cache().into_iter().flat_map(cache_folders));
    let found = folders.iter().find_map(|folder| library_in(folder));
    if let Some(path) = found {
        return Library::open(&path);
    }
    // The system knows more places than can be listed.
    Library::open(Path::new(FILE_NAME)).map_err(|_not_there| {
        let places: Vec<String> = folders.iter().map(|path| path.display().to_string()).collect();
        format!(
            "no {FILE_NAME} in {} or where the system has libraries; name one with --onnxruntime or ORT_DYLIB_PATH",
            places.join(", ")
        )
    })
}

fn beside_program() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    program.parent().unwrap_or(Path::new(".")).to_owned()
}

/// The cache itself, and the folders in it that are named for the library, the highest name first.
fn cache_folders(cache: PathBuf) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = names(&cache)
        .filter(|name| name.starts_with("onnxruntime"))
        .map(|name| cache.join(name))
        .collect();
    folders.sort();
    folders.push(cache);
    folders.reverse();
    folders
}

/// The library in a folder; where there are several versions, the one with the highest name.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let named = names(folder).filter(|name| {
        name.strip_prefix(FILE_NAME)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    });
    named.max().map(|name| folder.join(name))
}

/// The names in a folder; none where it cannot be read.
fn names(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_known_by_its_name() {
        let cache = tempfile::TempDir::new().expect("a temporary folder");
        let folder = cache.path().join("onnxruntime-1.32.0");
        fs::create_dir(&folder).expect("writable");
        for name in [
            "libonnxruntime.so.1.31.0",
            "libonnxruntime.so.1.32.0",
            "libonnxruntime_providers_shared.so",
            "libonnxruntime.sold",
        ] {
            fs::write(folder.join(name), "").expect("writable");
        }
        let folders = cache_folders(cache.path().to_owned());
        assert_eq!(folders, [cache.path().to_owned(), folder.clone()]);
        let found = folders.iter().find_map(|folder| library_in(folder));
        assert_eq!(found, Some(folder.join("libonnxruntime.so.1.32.0")));
    }
}
