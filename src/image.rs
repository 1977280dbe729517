//! `kontiki image`: the images of a node agent, also while it runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kontiki_node_agent::image::import::import;
use kontiki_node_agent::image::reference::Reference;
use kontiki_node_agent::image::store::ImageStore;
use serde_json::json;

#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
    /// The node agent's data directory.
    #[arg(long, default_value = "/var/lib/kontiki/node-agent", global = true)]
    data_dir: PathBuf,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Action {
    /// Import an OCI layout, a docker archive or the tar of a root filesystem.
    Import {
        /// The file, or the directory of an OCI layout.
        path: PathBuf,
        /// The image's name; a root filesystem needs one.
        #[arg(long)]
        name: Option<String>,
    },
    /// List the images.
    List {
        /// `text` or `json`.
        #[arg(long, default_value = "text", value_parser = ["text", "json"])]
        output: String,
    },
    /// Forget a name; layers that no image uses any more are deleted.
    Remove { name: String },
}

/// Where an agent with this data directory keeps its images.
pub fn store_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("images")
}

fn open(data_dir: &Path) -> Result<ImageStore> {
    let dir = store_dir(data_dir);
    ImageStore::open(&dir).with_context(|| format!("image store {}", dir.display()))
}

/// Imports `NAME=PATH`, unless the image is there already.
pub fn import_argument(data_dir: &Path, argument: &str) -> Result<()> {
    let (name, path) = argument.split_once('=').with_context(|| format!("--image: {argument:?} is not NAME=PATH"))?;
    let reference = Reference::parse(name).map_err(|what| anyhow::anyhow!("--image: {name:?}: {what}"))?;
    let store = open(data_dir)?;
    if store.find(&reference)?.is_none() {
        import(&store, Path::new(path), Some(name)).context("--image")?;
    }
    Ok(())
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let store = open(&arguments.data_dir)?;
    match &arguments.action {
        Action::Import { path, name } => {
            for image in import(&store, path, name.as_deref())? {
                println!("{} {}", image.repo_tags.join(","), image.id);
            }
        }
        Action::List { output } => {
            let images = store.list()?;
            if output == "json" {
                let rows = images.iter().map(|image| {
                    json!({"id": image.id, "names": image.repo_tags, "digests": image.repo_digests, "size_bytes": image.size_bytes})
                });
                println!("{}", serde_json::Value::Array(rows.collect()));
                return Ok(());
            }
            println!("{:<50} {:<16} {:>10}", "NAME", "ID", "SIZE");
            for image in images {
                let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
                let size = format!("{:.1} MB", image.size_bytes as f64 / 1e6);
                println!("{:<50} {id:<16} {size:>10}", image.repo_tags.join(","));
            }
        }
        Action::Remove { name } => {
            let reference = Reference::parse(name).map_err(|what| anyhow::anyhow!("{name:?}: {what}"))?;
            anyhow::ensure!(store.remove(&reference)?, "there is no image named {reference}");
        }
    }
    Ok(())
}
