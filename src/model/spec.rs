//! A model's name as the user writes it: a path, `synthetic:SHAPE`, or a repository on the hub.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;
use crate::model::config::Config;
use crate::model::file::{read_start, refuse_lfs_pointer};
use crate::model::safetensors;

/// A parsed model name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ModelSpec {
    /// `synthetic:SHAPE`
    Synthetic(String),
    /// A `.gguf` file.
    Gguf(PathBuf),
    /// A folder with config.json, safetensors and tokenizer.json.
    Folder(PathBuf),
    /// `owner/name[@revision][:file]`
    Hub(String),
}

impl ModelSpec {
    /// Parses a model name.
    ///
    /// # Errors
    /// When it is neither the path of a model nor a name of another kind.
    pub(super) fn parse(text: &str) -> Result<Self> {
        if let Some(shape) = text.strip_prefix("synthetic:") {
            return Ok(ModelSpec::Synthetic(shape.into()));
        }
        let path = Path::new(text);
        if path.is_dir() {
            return Ok(ModelSpec::Folder(path.into()));
        }
        if path.is_file() {
            return Self::from_file(path);
        }
        let repository = text.split(['@', ':']).next().unwrap_or_default();
        let looks_like_hub = repository.split('/').count() == 2
            && !text.starts_with(['.', '/', '~'])
            && !text.contains('\\');
        if looks_like_hub && (!text.ends_with(".gguf") || text.contains(':')) {
            return Ok(ModelSpec::Hub(text.into()));
        }
        let hint = match Config::named(text) {
            Ok(_) => format!(" (did you mean `synthetic:{text}`?)"),
            Err(_) => String::new(),
        };
        Err(Error::Usage(format!(
            "no model `{text}`{hint}: there is no such file or folder; other forms are \
             `synthetic:SHAPE` and `owner/name[@revision][:file]`"
        )))
    }

    /// A GGUF file, or the folder of a safetensors file that holds its weights.
    fn from_file(path: &Path) -> Result<Self> {
        let start = read_start(path)?;
        if start.starts_with(b"GGUF") {
            return Ok(ModelSpec::Gguf(path.into()));
        }
        refuse_lfs_pointer(path).map_err(Error::of_named_file)?;
        let folder = files::folder_of(path);
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension == Some("safetensors") && folder.join("config.json").is_file() {
            let files = safetensors::weight_files(folder).map_err(Error::of_named_file)?;
            if files.iter().any(|file| file.file_name() == path.file_name()) {
                return Ok(ModelSpec::Folder(folder.into()));
            }
        }
        let advice = match extension {
            Some("safetensors") => format!(
                "it is one file of a model; give a folder with `config.json`, `tokenizer.json` \
                 and weights under their usual names, which `{}` is not",
                folder.display()
            ),
            Some("json") => format!("give its folder, `{}`", folder.display()),
            Some("bin" | "pt" | "pth" | "ckpt" | "pkl") => {
                "PyTorch's own format is not supported; convert it to safetensors or GGUF".into()
            }
            _ if start.starts_with(b"<") => {
                "it is a web page instead of the model; download it again".into()
            }
            _ if extension == Some("gguf") => {
                "it does not begin with `GGUF`; download it again".into()
            }
            _ => "give a GGUF file, or a folder with `config.json` and safetensors".into(),
        };
        Err(Error::Usage(format!("`{}` is not a model: {advice}", path.display())))
    }
}
