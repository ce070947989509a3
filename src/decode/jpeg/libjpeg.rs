//! libjpeg-turbo's decoder (the `mozjpeg-sys` crate carries its source) behind one safe function.
//!
//! Its decoder is called as Pillow calls it: accurate integer IDCT, fancy upsampling, block smoothing, and its own decision on
//! the colour space. An error leaves it by unwinding through its C frames, which is defined for the `C-unwind` ABI and for C
//! compiled with `-fexceptions`; after that its state is only destroyed.
#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::{c_int, c_uint, c_ulong};
use std::marker::PhantomData;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;

use mozjpeg_sys::{
    J_COLOR_SPACE, JERR_CONVERSION_NOTIMPL, JERR_FRACT_SAMPLE_NOTIMPL, JTRC_RECOVERY_ACTION, JTRC_RST, JWRN_HIT_MARKER,
    JWRN_JPEG_EOF, jpeg_common_struct, jpeg_create_decompress, jpeg_decompress_struct, jpeg_destroy_decompress,
    jpeg_error_mgr, jpeg_mem_src, jpeg_progress_mgr, jpeg_read_header, jpeg_read_scanlines, jpeg_start_decompress,
    jpeg_std_error,
};

use super::markers::{Place, is_restart, next_marker};

/// Why an image of which a part is missing is refused.
pub(super) const ENDED: &str = "the file ends before the image does";

/// What the decoder is held to, from the headers of the file.
pub(super) struct Bounds {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Streams of tables alone before the one with the image.
    pub(super) table_streams: usize,
    /// Scans that are read at most.
    pub(super) scans: usize,
    /// Bytes of memory that the decoder may take, apart from the samples.
    pub(super) memory: u64,
    /// Whether the data are coded arithmetically. Their decoder reads on as if zeros followed, so only the end of the file can tell
    /// that some are missing; Pillow never accepts that.
    pub(super) arithmetic: bool,
    /// Whether to stop where the file ends before the image does, rather than to fill the rest with grey.
    pub(super) stop_at_end: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Grey,
    Rgb,
    /// As Adobe stores it, with 255 for no ink; three bytes per pixel, converted line by line.
    RgbOfCmyk,
}

pub(super) struct Decoded {
    pub(super) layout: Layout,
    /// One or three bytes per pixel.
    pub(super) samples: Vec<u8>,
    /// Where the data of the image ended too early.
    pub(super) ended: Option<Place>,
}

/// Why there are no samples.
#[derive(Debug)]
pub(super) enum Failure {
    /// The data ended too early, and the decoder was to stop there.
    Ended(Place),
    /// A kind of JPEG that the decoder does not know.
    Unsupported(String),
    Damaged(String),
}

/// Decodes all lines of the first image.
pub(super) fn decode(bytes: &[u8], bounds: &Bounds) -> Result<Decoded, Failure> {
    // Nothing of a session is used after an unwinding but its `Drop`, which frees it.
    let decoded = catch_unwind(AssertUnwindSafe(|| Session::new(bytes, bounds).decode(bounds)));
    decoded.unwrap_or_else(|payload| match payload.downcast::<Failure>() {
        Ok(failure) => Err(*failure),
        Err(other) => resume_unwind(other),
    })
}

/// What the messages of the decoder have told so far. Its callbacks write here.
struct Watch {
    bytes: *const [u8],
    decoder: *const jpeg_decompress_struct,
    scans: usize,
    arithmetic: bool,
    stop_at_end: bool,
    /// A marker that the decoder left standing to find its place after a lost restart, and the scan of that.
    standing: Option<(c_int, u8)>,
    ended: Option<Place>,
    exhausted: bool,
}

/// A decoder and all that it points to. The parts are boxes of their own, held by pointer: C code and callbacks reach them by
/// other ways than this struct.
struct Session<'a> {
    decoder: *mut jpeg_decompress_struct,
    errors: *mut jpeg_error_mgr,
    progress: *mut jpeg_progress_mgr,
    watch: *mut Watch,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Session<'a> {
    fn new(bytes: &'a [u8], bounds: &Bounds) -> Self {
        // SAFETY: all three are plain C structs, for which zeros (no function, null, 0) are values.
        let (decoder, errors, progress) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        let decoder = Box::into_raw(Box::<jpeg_decompress_struct>::new(decoder));
        let watch = Watch {
            bytes,
            decoder,
            scans: bounds.scans,
            arithmetic: bounds.arithmetic,
            stop_at_end: bounds.stop_at_end,
            standing: None,
            ended: None,
            exhausted: false,
        };
        let session = Self {
            decoder,
            errors: Box::into_raw(Box::new(errors)),
            progress: Box::into_raw(Box::new(progress)),
            watch: Box::into_raw(Box::new(watch)),
            bytes: PhantomData,
        };
        // SAFETY: the pointers come from boxes that live until `drop`, and so does the borrow of `bytes`.
        unsafe {
            let errors = &mut *session.errors;
            jpeg_std_error(errors);
            errors.error_exit = Some(error_exit);
            errors.emit_message = Some(emit_message);
            (*session.progress).progress_monitor = Some(progress_monitor);
            (*decoder).common.err = session.errors;
            jpeg_create_decompress(decoder);
            // Creating the decoder clears all but the error manager and this pointer.
            (*decoder).common.client_data = session.watch.cast();
            (*decoder).common.progress = session.progress;
            (*(*decoder).common.mem).max_memory_to_use = bounds.memory.try_into().unwrap_or(0);
            jpeg_mem_src(&mut *decoder, bytes.as_ptr(), bytes.len() as c_ulong);
        }
        session
    }

    fn decode(&mut self, bounds: &Bounds) -> Result<Decoded, Failure> {
        const HEADER_OK: c_int = 1;
        // By the pointer each time: the callbacks read through a pointer of their own while a function of the decoder runs.
        let decoder = self.decoder;
        let mut streams = 0;
        // SAFETY: the decoder is created and has its source.
        while unsafe { jpeg_read_header(&mut *decoder, 0) } != HEADER_OK {
            streams += 1;
            if streams > bounds.table_streams {
                return Err(Failure::Damaged("it has no frame header".to_owned()));
            }
        }
        // SAFETY: the pointer comes from a box; no function of the decoder runs.
        let (stored, components) = unsafe { ((*decoder).jpeg_color_space, (*decoder).num_components) };
        let (layout, space, channels) = match stored {
            J_COLOR_SPACE::JCS_GRAYSCALE => (Layout::Grey, J_COLOR_SPACE::JCS_GRAYSCALE, 1),
            J_COLOR_SPACE::JCS_RGB | J_COLOR_SPACE::JCS_YCbCr => (Layout::Rgb, J_COLOR_SPACE::JCS_RGB, 3),
            J_COLOR_SPACE::JCS_CMYK | J_COLOR_SPACE::JCS_YCCK => (Layout::RgbOfCmyk, J_COLOR_SPACE::JCS_CMYK, 4),
            _ => return Err(Failure::Unsupported(format!("{components} components"))),
        };
        // SAFETY: the headers are read, so the colour space may be set and decoding may start; after it the sizes are known.
        let produced = unsafe {
            (*decoder).out_color_space = space;
            jpeg_start_decompress(&mut *decoder);
            ((*decoder).output_width, (*decoder).output_height, (*decoder).output_components)
        };
        if produced != (bounds.width, bounds.height, channels) {
            return Err(Failure::Damaged("its header can be read in two ways".to_owned()));
        }
        let samples = match layout {
            Layout::RgbOfCmyk => self.rgb_of_cmyk(bounds.width as usize, bounds.height as usize),
            Layout::Grey | Layout::Rgb => {
                let line = bounds.width as usize * channels as usize;
                let mut samples = vec![0; line * bounds.height as usize];
                self.lines(&mut samples, line);
                samples
            }
        };
        // SAFETY: as above; the callbacks have returned.
        let watch = unsafe { &*self.watch };
        Ok(Decoded { layout, samples, ended: watch.ended })
    }

    /// Fills `samples` with the next lines, of `line` bytes each: those of the output, which `decode` has compared.
    fn lines(&mut self, samples: &mut [u8], line: usize) {
        /// More than the decoder ever hands out at once.
        const ABREAST: usize = 16;
        let mut rest = samples;
        while !rest.is_empty() {
            let mut rows = [ptr::null_mut(); ABREAST];
            let count = ABREAST.min(rest.len() / line);
            for (row, line) in rows.iter_mut().zip(rest.chunks_exact_mut(line)) {
                *row = line.as_mut_ptr();
            }
            // SAFETY: decoding has started; each of the `count` pointers has room for a line.
            let read = unsafe { jpeg_read_scanlines(&mut *self.decoder, rows.as_mut_ptr(), count as c_uint) };
            // The source never asks to wait for more, so there is progress; an endless loop must be impossible all the same.
            if read == 0 {
                fail(Failure::Damaged("lines are missing".to_owned()));
            }
            rest = &mut rest[read as usize * line..];
        }
    }

    /// Four components without a second image in memory.
    fn rgb_of_cmyk(&mut self, width: usize, height: usize) -> Vec<u8> {
        let mut line = vec![0; width * 4];
        let mut samples = vec![0; width * height * 3];
        for to in samples.chunks_exact_mut(width * 3) {
            self.lines(&mut line, width * 4);
            for (to, &[cyan, magenta, yellow, black]) in to.as_chunks_mut().0.iter_mut().zip(line.as_chunks().0) {
                *to = [cyan, magenta, yellow].map(|ink| without_ink(ink, black));
            }
        }
        samples
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // SAFETY: each pointer comes from a box, and nothing uses it after this. Destroying is allowed in every state.
        unsafe {
            jpeg_destroy_decompress(&mut *self.decoder);
            drop(Box::from_raw(self.decoder));
            drop(Box::from_raw(self.errors));
            drop(Box::from_raw(self.progress));
            drop(Box::from_raw(self.watch));
        }
    }
}

/// As Pillow converts: `K - (255 - C) * K / 255`, where both are stored inverted. That is `C * K / 255` rounded the same way: no
/// tie is possible, 255 is odd.
fn without_ink(ink: u8, black: u8) -> u8 {
    let product = u32::from(ink) * u32::from(black) + 128;
    (((product >> 8) + product) >> 8) as u8
}

/// Leaves the decoder from one of its callbacks, without the message of a panic.
fn fail(failure: Failure) -> ! {
    resume_unwind(Box::new(failure) as Box<dyn Any + Send>)
}

/// The watch of the session that a callback belongs to.
///
/// # Safety
/// `common` is that of a decoder made by [`Session::new`].
unsafe fn watch(common: &mut jpeg_common_struct) -> Option<&mut Watch> {
    // SAFETY: `client_data` is null until it points to the watch, which lives as long as the decoder; callbacks do not call each
    // other, so there is one such reference at a time.
    unsafe { common.client_data.cast::<Watch>().as_mut() }
}

extern "C-unwind" fn error_exit(common: &mut jpeg_common_struct) {
    /// `JMSG_LENGTH_MAX`; the type of the binding says less.
    const LONGEST: usize = 200;
    type Format = unsafe extern "C-unwind" fn(*mut jpeg_common_struct, *mut u8);
    let mut text = [0u8; LONGEST];
    // SAFETY: `jpeg_std_error` has set the function, which writes at most `LONGEST` bytes with their final zero. The type
    // differs from the binding's in the two pointers alone.
    let code = unsafe {
        if let Some(format) = (*common.err).format_message {
            let format: Format = mem::transmute(format);
            format(common, text.as_mut_ptr());
        }
        (*common.err).msg_code
    };
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(LONGEST);
    let text = String::from_utf8_lossy(&text[..end]).into_owned();
    fail(match code {
        JERR_FRACT_SAMPLE_NOTIMPL | JERR_CONVERSION_NOTIMPL => Failure::Unsupported(text),
        _ => Failure::Damaged(text),
    })
}

extern "C-unwind" fn emit_message(common: &mut jpeg_common_struct, _level: c_int) {
    const LEFT_STANDING: c_int = 3;
    // SAFETY: the error manager lives as long as the decoder, and this is the session's decoder.
    let (errors, watch) = unsafe { (&mut *common.err, watch(common)) };
    let Some(watch) = watch else { return };
    // SAFETY: the parameters of these messages are integers.
    let parameters = unsafe { *errors.msg_parm.i() };
    // SAFETY: the decoder that called this is alive; only fields that it does not write meanwhile are read.
    let (scan, row, next) = unsafe {
        let decoder = watch.decoder;
        ((*decoder).input_scan_number, (*decoder).input_iMCU_row, (*(*decoder).src).next_input_byte)
    };
    match errors.msg_code {
        JWRN_JPEG_EOF => {
            watch.exhausted = true;
            if watch.arithmetic {
                fail(Failure::Damaged(ENDED.to_owned()));
            }
        }
        // Which marker, and what is done with it.
        JTRC_RECOVERY_ACTION => {
            watch.standing = (parameters[1] == LEFT_STANDING).then_some((scan, parameters[0] as u8));
        }
        JTRC_RST => watch.standing = None,
        JWRN_HIT_MARKER if watch.ended.is_none() => {
            // SAFETY: the session borrows these bytes.
            let bytes = unsafe { &*watch.bytes };
            let marker = match watch.standing {
                _ if watch.exhausted => None,
                Some((at, marker)) if at == scan => Some(marker),
                // The marker that stopped the decoder is the first one from its place on.
                _ => {
                    let offset = (next as usize).wrapping_sub(bytes.as_ptr() as usize);
                    next_marker(bytes, offset).map(|(marker, _)| marker)
                }
            };
            // Data that end at a restart are a damage in the middle, behind which the decoder goes on.
            if marker.is_none_or(|marker| !is_restart(marker)) {
                let place = Place { scan: scan as usize, row };
                watch.ended = Some(place);
                if watch.stop_at_end {
                    fail(Failure::Ended(place));
                }
            }
        }
        _ => {}
    }
}

/// Called for each line of blocks of files of several scans.
extern "C-unwind" fn progress_monitor(common: &mut jpeg_common_struct) {
    // SAFETY: this is the session's decoder; the field is not written meanwhile.
    let (scans, scan) = unsafe {
        let Some(watch) = watch(common) else { return };
        (watch.scans, (*watch.decoder).input_scan_number)
    };
    if usize::try_from(scan).is_ok_and(|scan| scan > scans) {
        fail(Failure::Damaged("it has more scans than its headers show".to_owned()));
    }
}
