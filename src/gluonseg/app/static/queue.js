// Computes photos one after another: honest progress, waiting when the server asks for it, and cancel.

import { ApiError, predict } from "./api.js";

const MAX_WAITS = 3; // how often a photo is sent again after the server has asked to wait
const LONGEST_WAIT_S = 90;

export class Queue {
  /**
   * `findNext()` gives the next {photo, model}, or null. `onAnswer(job, answer)` may be async; `onError(job, error)` is
   * told, and the queue goes on with the next; `onProgress(text, share)` gets null, null when nothing is left.
   */
  constructor({ findNext, onAnswer, onError, onProgress }) {
    Object.assign(this, { findNext, onAnswer, onError, onProgress, controller: null });
  }

  async run() {
    if (this.controller) return;
    const { signal } = (this.controller = new AbortController());
    for (let job = this.findNext(); job; job = this.findNext()) {
      try {
        const begun = performance.now();
        const answer = await this.ask(job, signal);
        await this.onAnswer(job, { ...answer, seconds: (performance.now() - begun) / 1000 });
      } catch (error) {
        if (signal.aborted) break; // `cancel` has told what becomes of the jobs
        this.onError(job, error);
      }
    }
    if (signal === this.controller?.signal) this.finish();
  }

  /** Give up what is computed and what waits; the server may finish what it has begun. */
  cancel() {
    this.controller?.abort(new Error("cancelled"));
    this.finish();
  }

  finish() {
    this.controller = null;
    this.stopClock();
    this.onProgress(null, null);
  }

  async ask(job, signal) {
    for (let waits = 0; ; waits++) {
      try {
        return await predict(job.model.name, job.photo.blob, signal, (phase, share) => this.report(job, phase, share));
      } catch (error) {
        const seconds = error instanceof ApiError ? error.retryAfter : 0;
        if (!seconds || seconds > LONGEST_WAIT_S || waits === MAX_WAITS) throw error;
        await this.wait(job, error.message, seconds, signal);
      } finally {
        this.stopClock();
      }
    }
  }

  report({ photo, model }, phase, share) {
    this.stopClock();
    const percent = share === null ? "" : ` ${Math.round(100 * share)} %`;
    if (phase === "send") this.onProgress(`Sending ${photo.name}${percent}`, share);
    if (phase === "receive") this.onProgress(`Receiving the mask of ${photo.name}${percent}`, share);
    if (phase === "compute")
      this.startClock((seconds) => this.onProgress(`${model.title} computes ${photo.name}: ${seconds} s`, null));
  }

  async wait({ photo }, reason, seconds, signal) {
    this.startClock((passed) =>
      this.onProgress(`${reason} ${photo.name} is sent again in ${Math.max(0, seconds - passed)} s.`, null),
    );
    await new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, 1000 * seconds);
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        reject(signal.reason);
      });
    });
  }

  startClock(show) {
    const begun = performance.now();
    const tick = () => show(Math.floor((performance.now() - begun) / 1000));
    tick();
    this.clock = setInterval(tick, 250);
  }

  stopClock() {
    clearInterval(this.clock);
  }
}
