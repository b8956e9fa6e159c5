(() => {
  "use strict";

  const root = document.documentElement;
  const INK = { light: "#1c1c1c", dark: "#ececec" };
  const GRID = { light: "#dddddd", dark: "#44484d" };
  const theme = document.getElementById("theme");
  const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);
  const showTheme = () => {
    theme.setAttribute("aria-pressed", String(isDark()));
    charts.forEach((chart) => chart.draw());
  };

  // A chart is drawn over its picture, which stays for print and comes back where drawing fails.
  class Chart {
    constructor(figure, spec) {
      this.image = figure.querySelector("img");
      this.spec = spec;
      this.place = document.createElement("div");
      this.place.className = "chart";
      this.options = document.createElement("div");
      this.options.className = "options";
      const label = document.createElement("label");
      this.logarithmic = document.createElement("input");
      this.logarithmic.type = "checkbox";
      this.logarithmic.checked = true;
      this.logarithmic.addEventListener("change", () => this.draw());
      label.append(this.logarithmic, " Logarithmic axes");
      const hint = document.createElement("span");
      hint.textContent = "Choose a curve in the legend, several with the shift key; point at a mark for its values.";
      const scales = spec.layer.flatMap((layer) => Object.values(layer.encoding).map((channel) => channel.scale));
      label.hidden = !scales.some((scale) => scale && scale.type === "log");
      this.options.append(label, hint);
      figure.append(this.options, this.place);
    }

    drawn() {
      const spec = structuredClone(this.spec);
      spec.width = "container";
      spec.autosize = { type: "fit-x", contains: "padding" };
      if (!this.logarithmic.checked) {
        for (const layer of spec.layer) {
          for (const channel of Object.values(layer.encoding)) {
            if (channel.scale && channel.scale.type === "log") channel.scale.type = "linear";
          }
        }
      }
      return spec;
    }

    async draw() {
      const shade = isDark() ? "dark" : "light";
      const words = { labelColor: INK[shade], titleColor: INK[shade] };
      const config = {
        background: "transparent",
        axis: { ...words, gridColor: GRID[shade], domainColor: INK[shade], tickColor: INK[shade] },
        legend: words,
        text: { color: INK[shade] },
        rule: { color: INK[shade] },
        view: { stroke: GRID[shade] },
      };
      try {
        const made = await window.vegaEmbed(this.place, this.drawn(), {
          actions: false, renderer: "svg", ast: true, config, tooltip: { theme: shade },
        });
        made.view.description(this.image.alt);
        this.image.hidden = true;
      } catch (error) {
        this.place.remove();
        this.options.remove();
        this.image.hidden = false;
      }
    }
  }

  const data = [...document.querySelectorAll("script.chart-data")].map((one) => JSON.parse(one.textContent));
  const charts = [...document.querySelectorAll("figure[data-chart]")].map(
    (figure) => new Chart(figure, data[Number(figure.dataset.chart)]),
  );
  theme.hidden = false;
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  systemDark.addEventListener("change", showTheme);
  showTheme();

  // "1,234.5 [1,200, 1,300]" and "3.1 %" sort by their first number; what has none comes last, in either direction.
  const NUMBER = /[-+]?(?:\d[\d,]*)(?:\.\d+)?(?:e[-+]?\d+)?/i;
  const valueOf = (cell) => {
    const text = cell.textContent.trim();
    if (/^infinite/.test(text)) return Infinity;
    if (/^minus infinite/.test(text)) return -Infinity;
    const found = text.match(NUMBER);
    return found && found.index === 0 ? Number(found[0].replaceAll(",", "")) : null;
  };

  const sortBy = (table, column, descending) => {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const values = new Map(rows.map((row) => [row, valueOf(row.cells[column])]));
    const numbers = [...values.values()].filter((value) => value !== null).length;
    const numeric = 2 * numbers > rows.length;
    const sign = descending ? -1 : 1;
    rows.sort((first, second) => {
      if (!numeric) return sign * first.cells[column].textContent.localeCompare(second.cells[column].textContent);
      const [a, b] = [values.get(first), values.get(second)];
      if (a === null || b === null) return (a === null) - (b === null);
      return a === b ? 0 : sign * (a < b ? -1 : 1);
    });
    body.append(...rows);
  };

  for (const table of document.querySelectorAll("main table")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const descending = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sortBy(table, column, descending);
      });
    });
    if (table.tBodies[0].rows.length >= 8) {
      const label = document.createElement("label");
      label.className = "filter";
      label.append("Show rows with ");
      const input = document.createElement("input");
      input.type = "search";
      label.append(input);
      table.parentElement.before(label);
      input.addEventListener("input", () => {
        const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
        for (const row of table.tBodies[0].rows) {
          const text = row.textContent.toLowerCase();
          row.hidden = !words.every((word) => text.includes(word));
        }
      });
    }
  }
})();
