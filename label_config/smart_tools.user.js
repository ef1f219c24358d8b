// ==UserScript==
// @name         m2n2: smart brush, bitmask, ellipse and polygon
// @description  Label Studio 1.23.2 asks the backend about points and rectangles only; with this, about every smart control.
// @match        *://*/projects/*
// @grant        none
// ==/UserScript==
(() => {
  // The editor asks about a region whose `dynamic` is true. Its point and rectangle tools set that, these do not.
  const KINDS = ["brushregion", "bitmaskregion", "ellipseregion", "polygonregion"];
  const MILLISECONDS = [100, 300, 700, 1500]; // after which a finished region is in the annotation, on slow machines too
  const annotation = () => window.Htx?.annotationStore?.selected;
  let before = { of: null, ids: new Set() };
  let unfinished = new Set();

  function look() {
    const regions = [...(annotation()?.areas.values() ?? [])].filter((region) => KINDS.includes(region.type));
    return { of: annotation(), ids: new Set(regions.map((region) => region.id)), regions };
  }

  function tell() {
    const now = look();
    // What appeared while another annotation was opened was loaded, not drawn.
    if (!window.Htx?.autoAnnotation || now.of !== before.of) return unfinished.clear();
    for (const region of now.regions) {
      if (!before.ids.has(region.id)) unfinished.add(region.id);
      const smart = region.results.some((result) => result.from_name.smartEnabled);
      if (!unfinished.has(region.id) || region.isDrawing || region.closed === false || !smart) continue;
      unfinished.delete(region.id);
      before.ids.add(region.id);
      region.makeDynamic();
      region.notifyDrawingFinished();
    }
  }

  window.addEventListener("mousedown", () => {
    tell(); // the next corner of a polygon may be clicked before the first look at what the last click began
    before = look();
  }, true);
  window.addEventListener("mouseup", () => MILLISECONDS.forEach((wait) => setTimeout(tell, wait)), true);
})();
