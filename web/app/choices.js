// What can be asked for, with a sentence on each. Made from the tables in src/job by `make docs`.

export const presets = [
  {"name":"Adaptive streaming","text":"HLS and DASH over the same fragmented MP4, with aligned qualities and shared sound, so that players switch quality with the viewer's connection; best for a player on a page.","usual":"1080p, 720p, 360p and 144p, as far as the video has them","value":"hls-adaptive"},
  {"name":"Plain HLS","text":"HLS with MPEG-TS segments of 4 s, one playlist a quality, for players that choose a quality themselves.","usual":"720p","value":"hls"},
  {"name":"MP4 for the web","text":"One MP4 (H.264, AAC) a quality, at constant quality under a bit rate cap, that starts playing while it loads; best for downloads and simple pages.","usual":"720p","value":"web-optimized"},
  {"name":"As it is","text":"A copy of the streams in a new file, fast and of the same size; with qualities, MP4 (H.264, AAC) at that size and a fixed bit rate.","usual":"a copy of the streams","value":"default"},
];

export const qualities = [
  {"text":"4K, 12 Mbit/s","value":"2160p"},
  {"text":"6 Mbit/s","value":"1440p"},
  {"text":"Full HD, 3 Mbit/s","value":"1080p"},
  {"text":"HD, 1.5 Mbit/s","value":"720p"},
  {"text":"800 kbit/s","value":"480p"},
  {"text":"phones, 400 kbit/s","value":"360p"},
  {"text":"250 kbit/s","value":"240p"},
  {"text":"poor connections, 100 kbit/s","value":"144p"},
];

export const stills = [
  {"name":"Poster","text":"A picture of the beginning, for the player and for links.","value":"poster"},
  {"name":"Preview pictures","text":"Small pictures that show the place under a seek bar.","value":"storyboard"},
];

export const entries = [
  {"name":"HLS master playlist","value":"hls"},
  {"name":"DASH manifest","value":"dash"},
];
