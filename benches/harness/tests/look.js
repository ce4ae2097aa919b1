// Runs at the end of a report: looks at what the browser has drawn, and writes what is wrong with it into the document.
(() => {
  const found = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const name = (element) => `${element.tagName} "${element.textContent.trim().slice(0, 40)}"`;
  const box = (element) => element.getBoundingClientRect();
  // What is folded away is looked at too.
  all("details").forEach((details) => { details.open = true; });

  // Nothing is fetched.
  const fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
  all("[src], link[href]").forEach((element) => fetched.push(element.src || element.href));
  fetched.forEach((address) => found.push(`fetches ${address}`));

  // Only boxes that say so scroll sideways.
  if (document.documentElement.scrollWidth > document.documentElement.clientWidth) {
    found.push(`the page is ${document.documentElement.scrollWidth} wide in a window of ${document.documentElement.clientWidth}`);
  }

  all("a[href^='#']").forEach((link) => {
    if (!document.getElementById(link.getAttribute("href").slice(1))) found.push(`${name(link)} leads nowhere`);
  });

  // Charts: there are some, they have a size, and nothing in them has broken figures.
  if (all("svg").length === 0) found.push("there is no chart");
  all("svg *").forEach((element) => {
    const attributes = [...element.attributes].filter((attribute) => /NaN|inf/i.test(attribute.value));
    attributes.forEach((attribute) => found.push(`${element.tagName} ${attribute.name} is ${attribute.value}`));
  });
  all("svg").forEach((svg) => {
    const frame = box(svg);
    if (frame.width < 300 || frame.height < 30) found.push(`a chart is ${frame.width} by ${frame.height}`);
    const label = svg.getAttribute("aria-label");
    const texts = [...svg.querySelectorAll("text")];
    if (texts.length === 0) found.push(`${label}: no text`);
    texts.forEach((text, at) => {
      const one = box(text);
      if (one.left < frame.left - 1 || one.right > frame.right + 1 || one.top < frame.top - 1 || one.bottom > frame.bottom + 1) {
        found.push(`${label}: ${name(text)} sticks out`);
      }
      texts.slice(at + 1).forEach((other) => {
        const two = box(other);
        const wide = Math.min(one.right, two.right) - Math.max(one.left, two.left);
        const high = Math.min(one.bottom, two.bottom) - Math.max(one.top, two.top);
        // The box of a line of text is higher than its letters.
        if (wide > 1 && high > one.height / 3) found.push(`${label}: ${name(text)} lies on ${name(other)}`);
      });
    });
    svg.querySelectorAll(".bar, .pale, .line").forEach((mark) => {
      const style = getComputedStyle(mark);
      const paint = mark.matches(".line") ? style.stroke : style.fill;
      if (!/^rgb/.test(paint)) found.push(`${label}: a mark is painted ${paint}`);
    });
    const lengths = [...svg.querySelectorAll(".bar")].map((bar) => bar.getBBox().width);
    if (lengths.length > 1 && Math.max(...lengths) < 200) found.push(`${label}: the longest bar is ${Math.max(...lengths)}`);
  });

  // Text stands out from what is behind it, as WCAG 2 wants it (AA).
  const colour = (text) => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const blend = (over, under) => {
    const part = over[3] / 255;
    return [0, 1, 2].map((at) => over[at] * part + under[at] * (1 - part));
  };
  const behind = (element) => {
    if (!element) return [255, 255, 255];
    const own = colour(getComputedStyle(element).backgroundColor);
    return own[3] === 255 ? own.slice(0, 3) : blend(own, behind(element.parentElement));
  };
  const light = (rgb) => {
    const [red, green, blue] = rgb.map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (one, two) => {
    const [dark, bright] = [light(one), light(two)].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  all("h1, h2, h3, p, li, td, th, summary, code, pre, a, strong, span, svg text").forEach((element) => {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own) return;
    const style = getComputedStyle(element);
    const ground = behind(element);
    const ink = blend(colour(element.closest("svg") ? style.fill : style.color), ground);
    const ratio = contrast(ink, ground);
    if (ratio < 4.5) found.push(`${name(element)} has a contrast of ${ratio.toFixed(2)}`);
  });
  all("svg .bar, svg .line, .swatch").forEach((mark) => {
    const style = getComputedStyle(mark);
    const paint = mark.matches(".line") ? style.stroke : mark.matches(".bar") ? style.fill : style.backgroundColor;
    const ratio = contrast(colour(paint).slice(0, 3), behind(mark.parentElement.closest("section, body")));
    if (ratio < 3) found.push(`a mark in ${paint} has a contrast of ${ratio.toFixed(2)}`);
  });

  const verdict = document.createElement("pre");
  verdict.id = matchMedia("(prefers-color-scheme: dark)").matches ? "found-in-dark" : "found-in-light";
  verdict.textContent = found.length ? [...new Set(found)].slice(0, 30).join("\n") : "nothing";
  document.body.append(verdict);
})();
