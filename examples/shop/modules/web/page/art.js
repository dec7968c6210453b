// Drawings of the products. Colours are classes, so that the same drawing fits light and dark.

const svg = (box, body) => `<svg viewBox="${box}" aria-hidden="true" focusable="false">${body}</svg>`;
const product = (body) => svg("0 0 200 160", `<ellipse class="shadow" cx="100" cy="138" rx="66" ry="7"/>${body}`);

const teapot = product(`
  <path class="line thick" d="M146 84c10-2 20-10 30-20"/>
  <path class="clay" d="m142 74 34-20 7 11-37 25z"/>
  <path class="clay deep" d="M60 92C44 88 40 72 26 66l7-6c16 5 22 16 34 18z"/>
  <path class="clay" d="M50 96c0-24 22-38 50-38s50 14 50 38-20 42-50 42-50-18-50-42z"/>
  <path class="shine" d="M62 92c2-14 14-22 28-24-10 6-16 14-18 26z"/>
  <path class="clay deep" d="M70 63c4-9 16-13 30-13s26 4 30 13c-8 4-19 5-30 5s-22-1-30-5z"/>
  <circle class="clay" cx="100" cy="45" r="7"/>
  <path class="grain" d="M56 112c26 8 62 8 88 0"/>`);

const cups = product(`
  <path class="moss" d="M104 66h56c0 36-4 62-12 70h-32c-8-8-12-34-12-70z"/>
  <ellipse class="moss deep" cx="132" cy="66" rx="28" ry="7"/>
  <ellipse class="tea" cx="132" cy="68" rx="23" ry="4.5"/>
  <path class="clay" d="M40 78h58c0 32-4 52-12 60H52c-8-8-12-28-12-60z"/>
  <path class="glaze" d="M40 78h58c0 10 0 17-1 23-8 6-12-2-20 3s-12 6-18 0-10 4-18-2c-1-7-1-14-1-24z"/>
  <ellipse class="clay deep" cx="69" cy="78" rx="29" ry="7"/>
  <ellipse class="tea" cx="69" cy="80" rx="24" ry="4.5"/>
  <path class="line steam" d="M62 64c-6-8 6-12 0-20M76 62c-6-8 6-12 0-20"/>`);

const lantern = product(`
  <path class="line" d="M100 8v22"/>
  <circle class="glow" cx="100" cy="84" r="62"/>
  <path class="paper" d="M74 36h52c22 14 30 32 30 48s-8 34-30 48H74c-22-14-30-32-30-48s8-34 30-48z"/>
  <path class="warm" d="M88 40h24c14 14 18 30 18 44s-4 30-18 44H88c-14-14-18-30-18-44s4-30 18-44z"/>
  <path class="rib" d="M62 46c24 5 52 5 76 0M50 62c32 6 68 6 100 0M45 79c36 6 74 6 110 0M46 96c36 6 72 6 108 0M52 112c32 6 64 6 96 0M64 126c24 4 48 4 72 0"/>
  <rect class="wood deep" x="72" y="28" width="56" height="9" rx="3"/>
  <rect class="wood deep" x="72" y="131" width="56" height="9" rx="3"/>`);

const plane = product(`
  <path class="wood" d="M26 96h148a6 6 0 0 1 6 6v28a6 6 0 0 1-6 6H26a6 6 0 0 1-6-6v-28a6 6 0 0 1 6-6z"/>
  <path class="grain" d="M28 108c40-4 60 6 92 1s40-2 54 1M28 124c34-5 70 4 96-1s36 0 50 1"/>
  <path class="wood deep" d="m84 96 10 40h24l-8-40z"/>
  <path class="steel" d="m72 46 26-6 20 92-8 2z"/>
  <path class="shine" d="m80 48 8-2 12 56-4 1z"/>
  <path class="wood deep" d="m102 66 18-3 8 33h-20z"/>
  <path class="shaving" d="M86 92C60 88 42 66 52 46s38-14 36 4-26 18-26 2"/>`);

const broom = product(`
  <path class="wood" d="M96 10h8l3 62H93z"/>
  <path class="wood deep" d="M98 10h2l1 62h-4z"/>
  <path class="straw" d="M88 72h24c8 20 28 40 40 64-34 6-70 6-104 0 12-24 32-44 40-64z"/>
  <path class="rib strong" d="M92 78c-6 20-20 40-28 60M97 78c-3 20-10 42-14 61M100 78v62M103 78c3 20 10 42 14 61M108 78c6 20 20 40 28 60"/>
  <path class="copper" d="M86 68h28v8H86zM82 84c12 3 24 3 36 0l2 7c-13 3-27 3-40 0z"/>
  <path class="line thin" d="M100 10c-8-10 8-10 0 0"/>`);

const knife = product(`
  <g transform="rotate(-14 100 90)">
    <path class="steel" d="M14 74h116v36H62C40 110 22 98 14 74z"/>
    <path class="edge" d="M22 90c8 13 22 20 40 20h68v-7H64c-18 0-32-4-42-13z"/>
    <path class="shine" d="M26 79h70l-6 6H31z"/>
    <path class="ink" d="M130 76h9v30h-9z"/>
    <path class="wood" d="M139 77h42c6 0 9 4 9 9s-3 10-9 10h-42z"/>
    <path class="grain" d="M145 84c14-3 26 3 40 0M145 91c12-2 22 2 36 0"/>
  </g>`);

const bell = product(`
  <path class="line" d="M100 8v22"/>
  <path class="iron" d="M60 82c0-32 16-52 40-52s40 20 40 52c0 6 3 10 6 14H54c3-4 6-8 6-14z"/>
  <path class="shine" d="M74 78c0-20 6-32 17-38-5 12-7 24-7 38z"/>
  <path class="rib light" d="M61 78c24 5 54 5 78 0M66 58c20 4 48 4 68 0"/>
  <path class="line" d="M100 96v16"/>
  <circle class="copper" cx="100" cy="98" r="5"/>
  <path class="paper" d="M88 110h24v32H88z"/>
  <path class="clay" d="M94 117h12v3H94zm0 7h12v3H94zm0 7h8v3h-8z"/>`);

const notebook = product(`
  <path class="paper" d="M60 30h88a4 4 0 0 1 4 4v98a4 4 0 0 1-4 4H60z"/>
  <path class="indigo" d="M52 24h86a5 5 0 0 1 5 5v99a5 5 0 0 1-5 5H52z"/>
  <path class="indigo deep" d="M52 24h16v109H52z"/>
  <path class="stitch" d="M68 24v109M52 40h16M52 60h16M52 79h16M52 98h16M52 117h16"/>
  <rect class="paper" x="84" y="44" width="42" height="26" rx="2"/>
  <path class="line thin" d="M91 53h28M91 61h18"/>
  <path class="clay" d="M120 133v14l5-5 5 5v-14z"/>`);

const ART = { teapot, cups, lantern, plane, broom, knife, bell, notebook };

const HERO = svg("0 0 520 360", `
  <circle class="sun" cx="372" cy="112" r="66"/>
  <path class="hill far" d="M0 232C70 176 130 196 190 166s120-40 180 6 100 20 150 34v154H0z"/>
  <path class="hill near" d="M0 270c80-46 150-10 230-34s170-22 290 22v102H0z"/>
  <path class="roof" d="M34 118 170 58l136 60-12 12H46z"/>
  <path class="ridge" d="M140 62h60l-6-12h-48z"/>
  <path class="wall" d="M62 130h216v126H62z"/>
  <path class="shoji" d="M78 144h56v112H78zM142 144h56v112h-56zM206 144h56v112h-56z"/>
  <path class="lattice" d="M106 144v112M170 144v112M234 144v112M78 172h56M78 200h56M78 228h56M142 172h56M142 200h56M142 228h56M206 172h56M206 200h56M206 228h56"/>
  <path class="post" d="M56 130h9v150h-9zM275 130h9v150h-9z"/>
  <path class="deck" d="M30 256h290v16H30z"/>
  <path class="sill" d="M22 286h306v18H22z"/>
  <path class="stone" d="M44 304h44v14H44zM152 304h44v14h-44zM262 304h44v14h-44z"/>
  <path class="deck" d="M52 272h10v14H52zM168 272h10v14h-10zM284 272h10v14h-10z"/>
  <path class="trunk" d="M438 304c-4-46 8-62-2-104M436 232c14-12 22-14 34-34"/>
  <path class="leaf" d="M392 178c8-24 34-32 54-22 24-10 48 4 50 26 14 6 14 28-2 32-16 8-32 2-40-6-14 10-36 8-44-4-18 0-28-14-18-26z"/>
  <path class="ground" d="M0 318h520v42H0z"/>
  <path class="path" d="M120 318h110l60 42H60z"/>`);

/** The drawing of a product; an empty frame for one that has none. */
export function art(id) {
  const template = document.createElement("template");
  template.innerHTML = Object.hasOwn(ART, id) ? ART[id] : product("");
  return template.content.firstElementChild;
}

const hero = document.createElement("template");
hero.innerHTML = HERO;
document.getElementById("hero-art").append(hero.content);
