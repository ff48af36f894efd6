"""Basics of accessibility, checked in a real browser: names, labels, headings, contrast, the order of the focus."""

from typing import cast

from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.action_chains import ActionChains

STRUCTURE = r"""
const problems = [], say = (element, text) => problems.push(
  text + ": " + element.outerHTML.slice(0, 120).replace(/\s+/g, " "));
const alternatives = element => [...element.querySelectorAll("img[alt], [aria-label]")].map(
  one => one.alt || one.getAttribute("aria-label")).join(" ");
const name = element => (element.getAttribute("aria-label") || element.textContent || element.getAttribute("title") ||
  alternatives(element)).trim();
if (document.documentElement.lang !== "en") problems.push("the page has no language");
if (!document.title.trim()) problems.push("the page has no title");
if (document.querySelectorAll("h1").length !== 1) problems.push(
  `${document.querySelectorAll("h1").length} main headings`);
if (document.querySelectorAll("main").length !== 1) problems.push("not one main element");
let level = 0;
for (const heading of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
  const now = Number(heading.tagName[1]);
  if (now > level + 1) say(heading, `a heading of level ${now} after one of level ${level}`);
  level = now;
}
for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea, progress, meter"))
  if (!(field.labels && field.labels.length) && !field.getAttribute("aria-label") &&
      !document.getElementById(field.getAttribute("aria-labelledby") || "")) say(field, "no label");
for (const element of document.querySelectorAll("a[href], button, summary"))
  if (!name(element)) say(element, "no name");
for (const image of document.querySelectorAll("img")) if (!image.hasAttribute("alt")) say(image, "no alt text");
for (const image of document.querySelectorAll("[role=img]")) if (!name(image)) say(image, "no text alternative");
for (const image of document.querySelectorAll("svg:not([aria-hidden=true] *)"))
  if (image.parentElement.closest("svg") === null && !image.closest("[role=img], [aria-hidden=true]") &&
      !image.getAttribute("aria-label") && !image.getAttribute("aria-labelledby") && !image.querySelector("text, a"))
    say(image, "a drawing without a text alternative");
const ids = [...document.querySelectorAll("[id]")].map(element => element.id);
for (const id of new Set(ids.filter((one, i) => ids.indexOf(one) !== i))) problems.push("the id " + id + " twice");
for (const element of document.querySelectorAll("[tabindex]"))
  if (element.tabIndex > 0) say(element, "a tabindex above 0");
for (const table of document.querySelectorAll("table")) if (!table.querySelector("th")) say(table, "no header cells");
return problems;
"""

CONTRAST = r"""
const parse = text => {
  const found = text.match(/^rgba?\(([\d.]+), ([\d.]+), ([\d.]+)(?:, ([\d.]+))?\)$/);
  return found ? [Number(found[1]), Number(found[2]), Number(found[3]), Number(found[4] ?? 1)] : null;
};
const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat([1]);
const luminance = color => color.slice(0, 3).map(value => value / 255).map(
  value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
  .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
const ratio = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((m, n) => n - m);
  return (x + 0.05) / (y + 0.05); };
const behind = element => {
  const layers = [];
  for (let one = element; one; one = one.parentElement) {
    const style = getComputedStyle(one);
    if (style.backgroundImage !== "none") return null;
    const color = parse(style.backgroundColor);
    if (color && color[3] > 0) { layers.push(color); if (color[3] === 1) break; }
  }
  return layers.reverse().reduce((below, top) => over(top, below), parse(arguments[0]));
};
const problems = new Map(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
  if (!text || element.closest("title, script, style, option, .hidden, .skip")) continue;
  if (!element.checkVisibility() || element.closest("[disabled], [aria-disabled=true]")) continue;
  const style = getComputedStyle(element), svg = element.closest("svg");
  const color = parse(svg ? style.fill : style.color);
  if (!color) continue;
  let ground = behind(svg ? svg.parentElement : element);
  if (svg) {
    const box = element.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
    for (const shape of svg.querySelectorAll("rect, path")) {
      const around = shape.getBoundingClientRect(), fill = parse(getComputedStyle(shape).fill);
      if (fill && shape.tagName === "rect" && fill[3] > 0 && around.left <= x && x <= around.right &&
          around.top <= y && y <= around.bottom && (shape.compareDocumentPosition(element) & 4))
        ground = over([fill[0], fill[1], fill[2], fill[3] * Number(getComputedStyle(shape).opacity)], ground);
    }
  }
  if (!ground) continue;
  const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  const found = ratio(over(color, ground), ground);
  if (found < (large ? 3 : 4.5) - 0.005) problems.set(element.className.toString() + style.color,
    `${found.toFixed(2)} for ${element.tagName} ${element.getAttribute("class") || ""}: ` +
    text.slice(0, 50));
}
return [...problems.values()];
"""

FOCUSABLE = """
const focusable = () => [...document.querySelectorAll("a[href], button:not([disabled]), input:not([type=hidden]), \
select, textarea, summary, [tabindex='0']")].filter(element => element.checkVisibility());
"""
WATCH_FOCUS = FOCUSABLE + """
window.focused = [];
document.addEventListener("focusin", event => {
  const style = getComputedStyle(event.target);
  window.focused.push([focusable().indexOf(event.target), event.target.outerHTML.slice(0, 100),
                       style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2]);
});
document.activeElement.blur();
window.scrollTo(0, 0);
"""
ONE_GROUP = FOCUSABLE + """
return focusable().slice(arguments[0], arguments[1]).every(element => element.type === "radio");
"""


def structure_problems(driver: Chrome) -> list[str]:
    """Missing names, labels, headings and the like on the page that is open."""
    return cast(list[str], driver.execute_script(STRUCTURE))


def contrast_problems(driver: Chrome, dark: bool) -> list[str]:
    """Texts with less contrast than WCAG 2 AA asks for (4.5, or 3 where it is large)."""
    return cast(list[str], driver.execute_script(CONTRAST, "rgb(18, 18, 18)" if dark else "rgb(255, 255, 255)"))


def focus_problems(driver: Chrome, most: int = 25) -> list[str]:
    """Return the stops of Tab that are out of the page's order, or not visible."""
    driver.execute_script(WATCH_FOCUS)
    ActionChains(driver).send_keys(Keys.TAB * most).perform()
    problems, before = [], -1
    for now, element, visible in driver.execute_script("return window.focused"):
        if now == -1:  # a scrollable region that browsers put in by themselves
            continue
        if now < before:
            break  # around once
        if not visible:
            problems.append(f"the focus cannot be seen on {element}")
        # Radio buttons of the group that was left or entered are passed over.
        if now > before + 1 and not driver.execute_script(ONE_GROUP, before + 1, now):
            problems.append(f"the focus goes from element {before} to {now}")
        before = now
    return problems
