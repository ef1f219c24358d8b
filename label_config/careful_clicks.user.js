// ==UserScript==
// @name         m2n2: clicks that lose nothing
// @description  Label Studio 1.23.2: accepts a pending mask before another label and Submit, clicks into boxes, asks again after undo.
// @match        *://*/projects/*
// @grant        none
// ==/UserScript==
(() => {
  const MILLISECONDS = [50, 400]; // after which the editor has undone or deleted, on slow machines too
  const SUBMITS = "[data-testid=bottombar-submit-button], [data-testid=bottombar-update-button]";
  const annotation = () => window.Htx?.annotationStore?.selected;
  const prompts = () => [...(annotation()?.areas.values() ?? [])].filter((region) => region.dynamic);
  const pending = () => window.Htx?.autoAnnotation && annotation()?.suggestions.size > 0;
  const labels = () => {
    const groups = [...(annotation()?.names.values() ?? [])].filter((tag) => tag.type === "labels");
    return groups.flatMap((group) => group.tiedChildren);
  };
  let before = { of: null, ids: [], chosen: [] };

  // Points of Alt+clicks look like all others until they are filled.
  // Undo, Backspace and Delete remove prompts without asking for the mask of the others; undo unselects the label too.
  function askAgain() {
    const left = prompts();
    left.filter((region) => region.negative).forEach((region) => region.shapeRef?.fill("black"));
    const ids = left.map((region) => region.id);
    const lost = before.of === annotation() && before.ids.some((id) => !ids.includes(id));
    const chosen = labels().filter((label) => label.selected);
    if (lost && !chosen.length) before.chosen.forEach((label) => label.setSelected(true));
    before = { of: annotation(), ids, chosen: lost ? before.chosen : chosen };
    if (!lost || !pending()) return;
    if (left.length) left[left.length - 1].notifyDrawingFinished();
    else annotation().setSuggestions(null);
  }

  function soon() {
    MILLISECONDS.forEach((wait) => setTimeout(askAgain, wait));
  }

  function accept() {
    if (pending()) annotation().acceptAllSuggestions();
  }

  window.addEventListener("click", (event) => {
    const other = event.target.closest?.(".lsf-label:not(.lsf-label_selected)");
    if (other || event.target.closest?.(SUBMITS)) accept();
    soon();
  }, true);

  window.addEventListener("keydown", (event) => {
    const control = event.ctrlKey || event.metaKey;
    const isKey = !control && !event.target.matches?.("input, textarea");
    const other = isKey && labels().some((label) => label.hotkey === event.key && !label.selected);
    if (other || (control && event.key === "Enter")) accept();
    soon();
  }, true);

  // A click inside a box selects the box, a Ctrl+click does not; while one is pending, each click is one with Ctrl.
  function intoBoxes(event) {
    const images = [...(annotation()?.names.values() ?? [])].filter((tag) => tag.type === "image");
    const tools = images.map((image) => image.getToolsManager().findSelectedTool());
    const clicks = tools.some((tool) => tool?.dynamic && tool.toolName === "KeyPointTool");
    const boxed = prompts().some((region) => region.type === "rectangleregion");
    if (clicks && boxed) Object.defineProperty(event, "ctrlKey", { value: true });
  }

  for (const name of ["move", "down", "up"]) {
    window.addEventListener(`mouse${name}`, intoBoxes, true);
    window.addEventListener(`pointer${name}`, intoBoxes, true);
  }

  // The editor sends boxes and points apart; the mask of a box goes on with the clicks in it where it gets both.
  const fetch = window.fetch;
  window.fetch = (address, options) => {
    if (typeof options?.body === "string" && String(address.url ?? address).includes("interactive-annotating")) {
      const body = JSON.parse(options.body);
      const asked = body.context?.result ?? [];
      const ids = new Set(asked.map((item) => item.id));
      const label = prompts().find((region) => ids.has(region.cleanId))?.labelName;
      const others = prompts().filter((region) => region.labelName === label && !ids.has(region.cleanId));
      const items = [...others.flatMap((region) => region.results.map((result) => result.serialize())), ...asked];
      const isBox = (item) => "height" in item.value;
      if (label !== undefined && items.some(isBox)) {
        body.context.result = [...items.filter(isBox), ...items.filter((item) => !isBox(item))];
        options = { ...options, body: JSON.stringify(body) };
      }
    }
    return fetch(address, options);
  };
})();
