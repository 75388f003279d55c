//! The codecs that are decoded. FFmpeg has several hundred decoders, many of them for formats that nobody uploads, and each
//! is a door for a hostile file. These are what cameras, phones, editors, screen recorders and browsers write, and what old
//! collections contain.

/// A codec and FFmpeg's decoders for it, of which an installation has some.
type Decoders = (&'static str, &'static [&'static str]);

const VIDEO: &[Decoders] = &[
    ("h264", &["h264"]),
    ("hevc", &["hevc"]),
    ("av1", &["libdav1d", "libaom-av1", "av1"]),
    ("vp8", &["vp8", "libvpx"]),
    ("vp9", &["vp9", "libvpx-vp9"]),
    ("mpeg1video", &["mpeg1video"]),
    ("mpeg2video", &["mpeg2video", "mpegvideo"]),
    ("mpeg4", &["mpeg4"]),
    ("msmpeg4v2", &["msmpeg4v2"]),
    ("msmpeg4v3", &["msmpeg4"]),
    ("h263", &["h263"]),
    ("flv1", &["flv"]),
    ("vp6f", &["vp6f"]),
    ("wmv1", &["wmv1"]),
    ("wmv2", &["wmv2"]),
    ("wmv3", &["wmv3"]),
    ("vc1", &["vc1"]),
    ("rv30", &["rv30"]),
    ("rv40", &["rv40"]),
    ("theora", &["theora"]),
    ("mjpeg", &["mjpeg"]),
    ("prores", &["prores"]),
    ("dnxhd", &["dnxhd"]),
    ("cfhd", &["cfhd"]),
    ("jpeg2000", &["jpeg2000", "libopenjpeg"]),
    ("dvvideo", &["dvvideo"]),
    ("ffv1", &["ffv1"]),
    ("huffyuv", &["huffyuv"]),
    ("ffvhuff", &["ffvhuff"]),
    ("utvideo", &["utvideo"]),
    ("qtrle", &["qtrle"]),
    ("png", &["png"]),
    ("gif", &["gif"]),
    ("rawvideo", &["rawvideo"]),
    ("v210", &["v210"]),
];

const AUDIO: &[Decoders] = &[
    ("aac", &["aac"]),
    ("aac_latm", &["aac_latm"]),
    ("mp3", &["mp3float", "mp3"]),
    ("mp2", &["mp2float", "mp2"]),
    ("mp1", &["mp1float", "mp1"]),
    ("ac3", &["ac3"]),
    ("eac3", &["eac3"]),
    ("dts", &["dca"]),
    ("truehd", &["truehd"]),
    ("opus", &["opus", "libopus"]),
    ("vorbis", &["vorbis", "libvorbis"]),
    ("flac", &["flac"]),
    ("alac", &["alac"]),
    ("wmav1", &["wmav1"]),
    ("wmav2", &["wmav2"]),
    ("wmapro", &["wmapro"]),
    ("amr_nb", &["amrnb", "libopencore_amrnb"]),
    ("amr_wb", &["amrwb", "libopencore_amrwb"]),
    ("cook", &["cook"]),
    ("speex", &["speex", "libspeex"]),
    ("nellymoser", &["nellymoser"]),
    ("gsm", &["gsm", "libgsm"]),
    ("s302m", &["s302m"]),
    ("adpcm_ms", &["adpcm_ms"]),
    ("adpcm_ima_wav", &["adpcm_ima_wav"]),
    ("adpcm_ima_qt", &["adpcm_ima_qt"]),
    ("adpcm_swf", &["adpcm_swf"]),
    ("pcm_u8", &["pcm_u8"]),
    ("pcm_s8", &["pcm_s8"]),
    ("pcm_s16le", &["pcm_s16le"]),
    ("pcm_s16be", &["pcm_s16be"]),
    ("pcm_s24le", &["pcm_s24le"]),
    ("pcm_s24be", &["pcm_s24be"]),
    ("pcm_s32le", &["pcm_s32le"]),
    ("pcm_s32be", &["pcm_s32be"]),
    ("pcm_f32le", &["pcm_f32le"]),
    ("pcm_f32be", &["pcm_f32be"]),
    ("pcm_f64le", &["pcm_f64le"]),
    ("pcm_f64be", &["pcm_f64be"]),
    ("pcm_alaw", &["pcm_alaw"]),
    ("pcm_mulaw", &["pcm_mulaw"]),
    ("pcm_bluray", &["pcm_bluray"]),
    ("pcm_dvd", &["pcm_dvd"]),
];

/// The decoders for `-codec_whitelist`.
pub(super) fn decoders() -> String {
    let all = VIDEO.iter().chain(AUDIO).flat_map(|(_, decoders)| *decoders);
    all.copied().collect::<Vec<_>>().join(",")
}

/// Whether video in this codec is decoded.
pub(super) fn is_known_video(codec: &str) -> bool {
    VIDEO.iter().any(|(known, _)| *known == codec)
}

/// Whether audio in this codec is decoded.
pub(super) fn is_known_audio(codec: &str) -> bool {
    AUDIO.iter().any(|(known, _)| *known == codec)
}
