// The camera: a picture of what it sees, or one several times a second.

/** Milliseconds between the pictures of a live camera. */
const PAUSE = 200;

/**
 * Shows what the camera sees in `video`; `taken` is called with each picture that is taken, and whether more follow.
 * `start` fails with a message where there is no camera, or it may not be used.
 */
export function cameraIn(video, taken) {
  let stream = null, timer = 0;
  const take = (isFrame) => { if (video.videoWidth) taken(video, [video.videoWidth, video.videoHeight], isFrame); };
  return {
    get isOn() { return stream !== null; },
    async start() {
      if (!navigator.mediaDevices) {
        throw new Error("The camera can only be used at 127.0.0.1 or localhost, or over HTTPS.");
      }
      try {
        stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      } catch (error) {
        throw new Error(error.name === "NotAllowedError"
          ? "The camera may not be used; allow it to this page in the browser."
          : "There is no camera that can be used.");
      }
      video.srcObject = stream;
      await video.play();
      video.hidden = false;
    },
    take: () => take(false),
    set isLive(is) {
      clearInterval(timer);
      video.hidden = is || !stream;
      timer = is ? setInterval(() => take(true), PAUSE) : 0;
    },
    stop() {
      clearInterval(timer);
      for (const track of stream?.getTracks() ?? []) track.stop();
      video.srcObject = stream = null;
      video.hidden = true;
    },
  };
}
