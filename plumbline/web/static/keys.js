// Whatever has data-key is pressed, or entered, by that key. Escape leaves a field.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || event.repeat) return;
  const here = event.target;
  if (event.key === "Escape") return here.blur();
  const typing = here.matches("textarea, select, input:not([type=radio]):not([type=number])");
  if (typing || event.key.length > 1) return;
  const wanted = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (!wanted) return;
  if (here.type === "number" && /\d/.test(event.key)) return;
  event.preventDefault();
  if (wanted.matches("button, [type=radio]")) wanted.click();
  else { wanted.focus(); wanted.select(); }
});
