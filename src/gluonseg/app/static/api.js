// Talks to the server: the prediction of one photo.

const PATIENCE_S = 180; // the server's own settings give a photo up after 115 s

/** An error with a sentence for people; `retryAfter` is the number of seconds the server asks to wait, 0 for none. */
export class ApiError extends Error {
  constructor(text, retryAfter = 0) {
    super(text);
    this.retryAfter = retryAfter;
  }
}

const UNREACHABLE =
  "The server cannot be reached. Check that it still runs and that you are connected to it, then try again.";
const SLOW = `The server did not answer within ${PATIENCE_S / 60} minutes. Try again later, or choose a smaller photo.`;
const SENTENCES = {
  404: "This model is not served any more. Load the page again to see which ones are.",
  413: "The photo is too large for this server. Choose a smaller one, or save it as a JPEG.",
  415: "The server takes JPEG and PNG photos only. Choose another photo, or save it as one of these.",
  429: "The server has had many photos from you in a short time. Try again in a minute.",
  503: "The server is busy with other photos. Try again in a minute.",
};

/**
 * Send the bytes of one JPEG or PNG, and receive the classes of its pixels as a PNG.
 *
 * `onProgress(phase, share)` is called with "send", "compute" and "receive"; share is 0 to 1, or null where unknown.
 * Gives {bytes: ArrayBuffer, orientation: 1 to 8}. An aborted `signal` rejects with its reason.
 */
export function predict(model, blob, signal, onProgress) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    let timer = 0;
    const fail = (error) => {
      clearTimeout(timer);
      reject(error);
    };
    const cancel = () => {
      xhr.abort();
      fail(signal.reason);
    };
    const startToWait = () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        xhr.abort();
        fail(new ApiError(SLOW));
      }, PATIENCE_S * 1000);
    };
    xhr.open("POST", `/api/models/${encodeURIComponent(model)}/prediction`);
    xhr.setRequestHeader("Accept", "image/x-confidence+png");
    xhr.responseType = "arraybuffer";
    xhr.upload.onprogress = (event) => onProgress("send", event.lengthComputable ? event.loaded / event.total : null);
    xhr.upload.onload = () => {
      onProgress("compute", null);
      startToWait();
    };
    xhr.onprogress = (event) => {
      clearTimeout(timer);
      onProgress("receive", event.lengthComputable ? event.loaded / event.total : null);
    };
    xhr.onerror = () => fail(new ApiError(UNREACHABLE));
    xhr.onload = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", cancel);
      if (xhr.status === 200) {
        const orientation = Number(xhr.getResponseHeader("X-Orientation")) || 1;
        return resolve({ bytes: xhr.response, orientation });
      }
      const text = new TextDecoder().decode(xhr.response ?? new ArrayBuffer());
      reject(new ApiError(describe(xhr.status, text), Number(xhr.getResponseHeader("Retry-After")) || 0));
    };
    if (signal.aborted) return reject(signal.reason);
    signal.addEventListener("abort", cancel, { once: true });
    onProgress("send", 0);
    xhr.send(blob);
  });
}

/** A sentence for an answer that is an error: the server's own where it gave one. */
function describe(status, body) {
  try {
    const { error } = JSON.parse(body);
    if (error) return `${error[0].toUpperCase()}${error.slice(1).replace(/[.\s]*$/, "")}.`;
  } catch {
    // A proxy in between answers with a page of its own.
  }
  return (
    SENTENCES[status] ??
    `The server answered with error ${status}. Try again; if that does not help, tell the person who runs it.`
  );
}
