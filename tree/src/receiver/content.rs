//! Content of one file as it arrives: writes it to a temporary file, verifies it, sets its attributes, and renames it over its target. A
//! target that cannot be replaced is written in place, after the content was verified.

use std::io::Write;
use std::rc::Rc;

use podbridge_files::{in_place, temporary};
use podbridge_proto::limits::check_length;
use podbridge_proto::v1::{TreePart, TreePartEnd};
use rustix::fs::{SeekFrom, fsync, ftruncate, seek};
use rustix::io::Errno;

use super::state::{IncomingContent, LinkedFile, PendingFile, Receiver, TemporaryContent};
use crate::attributes::StepError;
use crate::digest::TransferHasher;
use crate::error::{Error, reason};
use crate::report::Event;

impl<W: Write> Receiver<'_, W> {
    /// Handles the next part of a requested content.
    pub(super) fn take_part(&mut self, part: TreePart) -> Result<(), Error> {
        let mut content = match self.content.take() {
            Some(content) if content.number == part.entry => content,
            Some(_) => return Err(Error::Protocol("the content of one file interrupts that of another")),
            None => {
                let pending = self.pending.remove(&part.entry);
                let pending = pending.ok_or(Error::Protocol("content arrived that was not requested"))?;
                self.release_file(&pending);
                self.begin_content(part.entry, pending)?
            }
        };
        (self.output.report)(Event::Content(part.data.len() as u64));
        self.output.summary.bytes = self.output.summary.bytes.saturating_add(part.data.len() as u64);
        if let Some(writing) = &mut content.writing
            && let Err(errno) = writing.write(&part)
        {
            content.writing = None;
            self.output
                .report_failure(&content.pending.directory, &content.pending.name, "write it", errno)?;
        }
        match part.end {
            Some(end) => self.end_content(content, &end),
            None => {
                self.content = Some(content);
                Ok(())
            }
        }
    }

    fn begin_content(&mut self, number: u64, pending: PendingFile) -> Result<IncomingContent, Error> {
        let opened = self.directories.open(&pending.directory).and_then(|open| {
            self.temporaries.create(&open, |name| {
                temporary::create(&open, name, pending.attributes.creation_mode())
            })
        });
        let opened = match opened {
            Ok((temporary, file)) => Ok((Ok(temporary), file)),
            Err(errno) if in_place::may_help(errno) && self.can_write_in_place(&pending) => {
                in_place::spool().map(|file| (Err(errno), file))
            }
            Err(errno) => Err(errno),
        };
        let writing = match opened {
            Ok((temporary, file)) => Some(TemporaryContent {
                temporary,
                file,
                hasher: TransferHasher::default(),
                size: 0,
                written: 0,
            }),
            Err(errno) => {
                self.output
                    .report_failure(&pending.directory, &pending.name, "create it", errno)?;
                None
            }
        };
        Ok(IncomingContent {
            number,
            pending,
            writing,
        })
    }

    fn end_content(&mut self, content: IncomingContent, end: &TreePartEnd) -> Result<(), Error> {
        let IncomingContent {
            number,
            mut pending,
            writing,
        } = content;
        let directory = pending.directory.clone();
        let is_there = match writing.filter(|_| !end.failed) {
            None => false,
            Some(writing) if writing.size != end.size || writing.hasher.digest()[..] != end.digest => {
                let what = "the content was damaged on the way (length or BLAKE3 differs); nothing was changed";
                self.output
                    .report_problem(&directory, &pending.name, what.into(), false)?;
                false
            }
            Some(writing) => match self.finish_content(&writing, &mut pending, end) {
                Ok(in_place) => {
                    self.output.report_change(pending.change, &directory, &pending.name)?;
                    if let Some(errno) = in_place {
                        let what = format!("was written in place, because it cannot be replaced: {}", reason(errno));
                        self.output.report_problem(&directory, &pending.name, what, true)?;
                    }
                    true
                }
                Err((operation, errno)) => {
                    self.output
                        .report_failure(&directory, &pending.name, operation, errno)?;
                    false
                }
            },
        };
        if pending.has_links {
            let link = if is_there {
                LinkedFile::Present(directory.clone(), pending.name.clone())
            } else {
                LinkedFile::Failed
            };
            self.links.files.insert(number, link);
            let names = std::mem::take(&mut pending.links);
            self.finish_waiting_names(names, is_there.then_some((&directory, &*pending.name)))?;
        }
        self.release_directory(pending.parent)
    }

    /// Returns whether the target exists and this process may write into it.
    fn can_write_in_place(&mut self, pending: &PendingFile) -> bool {
        let opened = self.directories.open(&pending.directory);
        opened.is_ok_and(|open| in_place::open(&open, &*pending.name).is_ok())
    }

    /// Completes a verified temporary file and renames it over its target. Returns the reason if the target was written in place instead.
    fn finish_content(
        &mut self,
        writing: &TemporaryContent,
        pending: &mut PendingFile,
        end: &TreePartEnd,
    ) -> Result<Option<Errno>, StepError> {
        if writing.written < writing.size {
            ftruncate(&writing.file, writing.size).map_err(|errno| ("write it", errno))?;
        }
        pending.attributes.mtime_ns = end.mtime_ns;
        let directory = Rc::clone(&pending.directory);
        let refused = match &writing.temporary {
            Ok(temporary) => {
                pending.attributes.apply_to_new(&writing.file)?;
                if self.options.fsync {
                    fsync(&writing.file).map_err(|errno| ("sync it", errno))?;
                }
                match self.rename_over(temporary, &directory, &pending.name) {
                    Ok(()) => return Ok(None),
                    Err(errno) if in_place::may_help(errno) => errno,
                    Err(errno) => return Err(("replace it", errno)),
                }
            }
            Err(errno) => *errno,
        };
        let open = self.directories.open(&directory).map_err(|errno| ("enter it", errno))?;
        // The reason why it cannot be replaced says more than the one why it cannot be opened.
        let target = in_place::open(&open, &*pending.name).map_err(|_| ("replace it", refused))?;
        in_place::overwrite(&writing.file, &target, writing.size)
            .map_err(|errno| ("write all of it in place, so it is damaged now", errno))?;
        pending.attributes.apply_as_allowed(&target);
        if self.options.fsync {
            fsync(&target).map_err(|errno| ("sync it", errno))?;
        }
        Ok(Some(refused))
    }
}

impl TemporaryContent {
    fn write(&mut self, part: &TreePart) -> Result<(), Errno> {
        if part.restart {
            ftruncate(&self.file, 0)?;
            seek(&self.file, SeekFrom::Start(0))?;
            self.hasher.reset();
            (self.size, self.written) = (0, 0);
        }
        let add = |before, more| check_length(before, more, None).map_err(|_| Errno::FBIG);
        let data_end = add(self.size, part.data.len() as u64)?;
        let end = add(data_end, part.hole)?;
        if !part.data.is_empty() {
            if self.written < self.size {
                seek(&self.file, SeekFrom::Start(self.size))?;
            }
            let mut data = &part.data[..];
            while !data.is_empty() {
                match rustix::io::write(&self.file, data) {
                    Ok(count) => data = &data[count..],
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            self.written = data_end;
        }
        self.size = end;
        self.hasher.add(&part.data, part.hole);
        Ok(())
    }
}
