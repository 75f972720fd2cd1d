// Plays the sink's live transport stream by Media Source Extensions, close to the live edge, and comes back by itself when
// the connection breaks or the source restarts. The one parameter is the stream's path: /?stream=live.ts; without it the
// sink's list of streams is asked.
'use strict';

const byId = id => document.getElementById(id);
const video = byId('video');
let player = null;
let stalls = 0;
let retry = null;

async function streamPath() {
  const asked = new URLSearchParams(location.search).get('stream');
  if (asked) return '/' + asked.replace(/^\/+/, '');
  const answer = await fetch('/streams.json');
  const streams = await answer.json();
  if (!streams.length) throw new Error('this sink serves no stream');
  return streams[0].path;
}

function say(text) { byId('state').textContent = text; }

function restart(path, why) {
  say(`${why}; trying again…`);
  if (player) { player.destroy(); player = null; }
  clearTimeout(retry);
  retry = setTimeout(() => play(path), 1000);
}

function play(path) {
  if (!mpegts.isSupported()) { say('This browser has no Media Source Extensions for H.264; use the address below.'); return; }
  player = mpegts.createPlayer(
    { type: 'mpegts', isLive: true, url: new URL(path, location.href).href },
    {
      enableStashBuffer: false,
      // Follow the live edge by playing a little faster, never by jumping, unless far behind.
      liveSync: true, liveSyncTargetLatency: 0.8, liveSyncMaxLatency: 1.5, liveSyncPlaybackRate: 1.1,
      autoCleanupSourceBuffer: true, autoCleanupMaxBackwardDuration: 20, autoCleanupMinBackwardDuration: 10,
    });
  player.on(mpegts.Events.ERROR, (_kind, detail) => restart(path, `Interrupted (${detail})`));
  player.on(mpegts.Events.LOADING_COMPLETE, () => restart(path, 'The sink closed the stream'));
  player.attachMediaElement(video);
  player.load();
  video.play().catch(() => say('Press play to start.'));
}

function behindSeconds() {
  const { buffered, currentTime } = video;
  return buffered.length ? Math.max(0, buffered.end(buffered.length - 1) - currentTime) : null;
}

video.addEventListener('playing', () => say('Live'));
video.addEventListener('waiting', () => { if (video.currentTime > 0) { stalls += 1; byId('stalls').textContent = stalls; say('Waiting for data…'); } });

setInterval(() => {
  const behind = behindSeconds();
  byId('behind').textContent = behind === null ? '–' : `${(behind * 1000).toFixed(0)} ms`;
  if (video.videoWidth) byId('picture').textContent = `${video.videoWidth} × ${video.videoHeight}`;
  if (video.getVideoPlaybackQuality) byId('dropped').textContent = video.getVideoPlaybackQuality().droppedVideoFrames;
}, 500);

streamPath().then(path => {
  const plain = byId('plain');
  plain.href = path;
  plain.textContent = new URL(path, location.href).href;
  byId('name').textContent = `Anabranch – ${path.slice(1)}`;
  play(path);
}).catch(error => say(`Cannot list the streams: ${error.message}`));
