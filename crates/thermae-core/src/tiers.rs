//! The files of the durable tiers: opened, and made where a store is new or restored.

use crate::durable::{DurableTiers, WarmTier, cold_geometry, warm_geometry};
use crate::engine::Paths;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::frame_file::{FrameFile, FrameFileGeometry};
use crate::layout::Geometry;
use crate::options::Options;
use crate::places::{exists, prepare_directory};
use crate::superblock::Superblock;
use std::path::Path;

/// Opens the durable tiers, making those that a new store does not have yet.
pub(crate) fn open_durable(
    env: &dyn Env,
    paths: &Paths,
    superblock: &Superblock,
    geometry: &Geometry,
    options: &Options,
) -> Result<Option<DurableTiers>> {
    let (uuid, frame_bytes) = (superblock.uuid, geometry.frame_bytes);
    let warm = if geometry.warm_frames == 0 {
        None
    } else {
        let shape = warm_geometry(uuid, frame_bytes, geometry.warm_frames);
        let file = open_frames(env, &paths.warm, paths, superblock, shape, options)?;
        if file.damage().missing_bytes > 0 && !options.read_only {
            // What is missing is lost and is said to be; but a mapping of it must have something behind it.
            file.repair_shape()?;
        }
        Some(WarmTier::new(file, options.read_only)?)
    };
    let cold = if geometry.cold_frames == 0 {
        None
    } else {
        let shape = cold_geometry(uuid, frame_bytes, geometry.cold_frames);
        Some(open_frames(env, &paths.cold, paths, superblock, shape, options)?)
    };
    Ok(DurableTiers::new(warm, cold))
}

/// Opens a durable tier's file, or makes it where the store is new.
fn open_frames(
    env: &dyn Env,
    path: &Path,
    paths: &Paths,
    superblock: &Superblock,
    shape: FrameFileGeometry,
    options: &Options,
) -> Result<FrameFile> {
    let has_file = exists(env, path)?;
    if has_file && superblock.sequence_limit != 0 {
        // A snapshot that was never opened, so nobody else is at it: its file ends after the frames in use.
        let file = FrameFile::open(env, path, shape, false)?;
        if file.damage().missing_bytes > 0 {
            file.repair_shape()?;
        }
    }
    if has_file || options.read_only {
        return FrameFile::open(env, path, shape, options.read_only);
    }
    // Only a store that was never completely made lacks a file: one with data lost it, which must not pass for an empty one.
    if exists(env, &paths.directory.join("checkpoint.0"))?
        || exists(env, &paths.directory.join("checkpoint.1"))?
    {
        let remedy = match &superblock.warm_directory {
            Some(directory) if path == paths.warm => format!(
                "if the store's directory was moved to another disk, give its file in {} (thermae-{:032x}-....warm) this name; if it was copied, restore a snapshot instead",
                directory.display(),
                u128::from_be_bytes(superblock.uuid)
            ),
            _ => "put it back, or restore a snapshot".to_owned(),
        };
        return Err(Error::Corrupt(format!(
            "{} is missing though the store held data: {remedy}",
            path.display()
        )));
    }
    FrameFile::create(env, path, shape)
}

/// Makes the durable tiers of a store that is restored.
pub(crate) fn create_durable(
    env: &dyn Env,
    warm_path: &Path,
    cold_path: &Path,
    superblock: &Superblock,
    geometry: &Geometry,
) -> Result<Option<DurableTiers>> {
    let (uuid, frame_bytes) = (superblock.uuid, geometry.frame_bytes);
    if let Some(directory) = &superblock.warm_directory {
        prepare_directory(env, directory, true)?;
    }
    let warm = match geometry.warm_frames {
        0 => None,
        frames => {
            let file = FrameFile::create(env, warm_path, warm_geometry(uuid, frame_bytes, frames))?;
            Some(WarmTier::new(file, false)?)
        }
    };
    let cold = match geometry.cold_frames {
        0 => None,
        frames => Some(FrameFile::create(env, cold_path, cold_geometry(uuid, frame_bytes, frames))?),
    };
    Ok(DurableTiers::new(warm, cold))
}
