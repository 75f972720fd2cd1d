#!/bin/sh
# Makes clip.ts, the clip that the demo and the tests play: eight seconds of H.264 and AAC in a constant-rate transport
# stream of 2 Mbit/s. Needs ffmpeg with libx264 and a TrueType font.
#
# What matters in it:
#   - a burnt-in clock and frame number, so that a frozen, torn or late picture shows at a glance;
#   - closed groups of pictures of half a second, each with its parameter sets: a late joiner decodes within 0.5 s;
#   - PCR every 20 ms and a constant multiplex rate, so that it can be paced by PCR alone;
#   - a whole number of frames of both picture (25/s) and sound (1024 samples at 48 kHz): 8 s = 200 pictures = 375 sound
#     frames, so that the seam of a loop has no gap;
#   - no B frames: pictures are decoded in the order in which they are shown;
#   - at most 2 MiB, since every clone carries it.
set -eu
cd "$(dirname "$0")"
font=${FONT:-/usr/share/fonts/truetype/dejavu/DejaVuSansMono-Bold.ttf}
[ -r "$font" ] || { echo "no font at $font: set FONT to a TrueType font" >&2; exit 1; }
clock="drawtext=fontfile=$font:fontcolor=white:box=1:boxcolor=black@0.6:boxborderw=8"

ffmpeg -hide_banner -loglevel warning -y \
    -f lavfi -i "testsrc2=size=640x360:rate=25:duration=8" \
    -f lavfi -i "sine=frequency=440:beep_factor=2:sample_rate=48000:duration=8" \
    -vf "$clock:fontsize=40:x=(w-text_w)/2:y=h-70:text='%{pts\\:hms}  %{n}',$clock:fontsize=22:x=(w-text_w)/2:y=14:text='ANABRANCH'" \
    -c:v libx264 -preset slow -profile:v main -pix_fmt yuv420p -bf 0 -g 12 -keyint_min 12 -sc_threshold 0 -flags +cgop \
    -b:v 1300k -maxrate 1300k -bufsize 650k -x264-params "nal-hrd=cbr:repeat-headers=1:threads=1" \
    -af "volume=0.25" -c:a aac -b:a 96k -ac 2 -frames:a 375 \
    -fflags +bitexact -flags:v +bitexact+cgop -flags:a +bitexact \
    -metadata service_name=clip -metadata service_provider=Anabranch \
    -f mpegts -muxrate 2000k -pcr_period 20 -pat_period 0.2 -mpegts_flags +resend_headers clip.ts
