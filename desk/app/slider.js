"use strict";
const stage = document.getElementById("stage");
const handle = document.getElementById("handle");
const zoom = document.getElementById("zoom");
const frame = document.getElementById("frame");
function place() {
  document.getElementById("left").style.clipPath = `inset(0 ${100 - handle.value}% 0 0)`;
  document.getElementById("line").style.left = `${handle.value}%`;
}
function scale() {
  const middle = (frame.scrollLeft + frame.clientWidth / 2) / stage.clientWidth;
  const centre = (frame.scrollTop + frame.clientHeight / 2) / stage.clientHeight;
  stage.style.width = `${stage.dataset.width * zoom.value}px`;
  stage.style.height = `${stage.dataset.height * zoom.value}px`;
  frame.scrollLeft = middle * stage.clientWidth - frame.clientWidth / 2;
  frame.scrollTop = centre * stage.clientHeight - frame.clientHeight / 2;
}
function drag(event) {
  if (event.buttons !== 1) return;
  const box = stage.getBoundingClientRect();
  handle.value = 100 * (event.clientX - box.left) / box.width;
  place();
  event.preventDefault();
}
// Small pictures start magnified, as far as the frame holds them whole.
function fit() {
  const fitting = [...zoom.options].map((option) => option.value).filter((value) => value <= 1
    || (stage.dataset.width * value <= frame.clientWidth && stage.dataset.height * value <= frame.clientHeight));
  zoom.value = fitting.at(-1);
  scale();
}
handle.addEventListener("input", place);
zoom.addEventListener("change", scale);
stage.addEventListener("pointerdown", drag);
stage.addEventListener("pointermove", drag);
stage.addEventListener("dragstart", (event) => event.preventDefault());
place();
fit();
