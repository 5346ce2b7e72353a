"""One self-contained page about a scene: its mesh to turn by hand, its turntable, its contact sheet. Works offline."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from modalities.core.files import write_text
from modalities.core.report import STYLE

WEBGL = """
const bytes = Uint8Array.from(atob(document.getElementById("glb").textContent.trim()), (c) => c.charCodeAt(0));
const data = new DataView(bytes.buffer), size = data.getUint32(12, true);
const gltf = JSON.parse(new TextDecoder().decode(bytes.subarray(20, 20 + size)));
const view = (n) => { const v = gltf.bufferViews[n];
  return bytes.slice(28 + size + v.byteOffset, 28 + size + v.byteOffset + v.byteLength); };
const part = (n) => view(gltf.accessors[n].bufferView);
const canvas = document.querySelector("canvas"), gl = canvas.getContext("webgl2", { antialias: true });
const say = (text) => { document.getElementById("state").textContent = text; };
const painted = gltf.images[0];
if (!gl) { say("This browser has no WebGL 2; open mesh.glb in any 3D viewer."); }
else { createImageBitmap(new Blob([view(painted.bufferView)], { type: painted.mimeType })).then(start, say); }
function start(picture) {
  const compile = (kind, text) => { const s = gl.createShader(kind); gl.shaderSource(s, text); gl.compileShader(s);
    if (!gl.getShaderParameter(s, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(s)); return s; };
  const program = gl.createProgram();
  gl.attachShader(program, compile(gl.VERTEX_SHADER, `#version 300 es
    layout(location=0) in vec3 position; layout(location=1) in vec3 normal; layout(location=2) in vec2 place;
    uniform vec3 middle; uniform vec2 turn; uniform float scale, aspect; out vec3 n; out vec2 t;
    vec3 turned(vec3 p) { float a = cos(turn.x), b = sin(turn.x), e = cos(turn.y), f = sin(turn.y);
      vec3 q = vec3(a * p.x + b * p.z, p.y, a * p.z - b * p.x);
      return vec3(q.x, e * q.y - f * q.z, f * q.y + e * q.z); }
    void main() { vec3 p = turned((position - middle) * scale); n = turned(normal); t = place;
      gl_Position = vec4(p.x * 2.6 / aspect, p.y * 2.6, -p.z, 3.0 - p.z); }`));
  gl.attachShader(program, compile(gl.FRAGMENT_SHADER, `#version 300 es
    precision highp float; in vec3 n; in vec2 t; uniform sampler2D paint; out vec4 o;
    void main() { float l = 0.62 + 0.38 * max(dot(normalize(n), normalize(vec3(0.4, 0.7, 0.8))), 0.0);
      o = vec4(pow(texture(paint, t).rgb * l, vec3(1.0 / 2.2)), 1.0); }`));
  gl.linkProgram(program); gl.useProgram(program);
  const used = gltf.meshes[0].primitives[0], names = used.attributes, box = gltf.accessors[names.POSITION];
  [[names.POSITION, 3], [names.NORMAL, 3], [names.TEXCOORD_0, 2]].forEach(([n, width], place) => {
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer()); gl.bufferData(gl.ARRAY_BUFFER, part(n), gl.STATIC_DRAW);
    gl.enableVertexAttribArray(place); gl.vertexAttribPointer(place, width, gl.FLOAT, false, 0, 0); });
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, part(used.indices), gl.STATIC_DRAW);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.SRGB8_ALPHA8, gl.RGBA, gl.UNSIGNED_BYTE, picture);
  gl.generateMipmap(gl.TEXTURE_2D);
  gl.enable(gl.DEPTH_TEST); gl.enable(gl.CULL_FACE);
  const at = (name) => gl.getUniformLocation(program, name);
  gl.uniform3f(at("middle"), ...box.min.map((low, i) => (low + box.max[i]) / 2));
  const reach = 1.7 / Math.max(...box.min.map((low, i) => box.max[i] - low));
  let turn = [0, 0.25], zoom = 1, held = null, still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const draw = () => {
    const w = canvas.clientWidth * devicePixelRatio, h = canvas.clientHeight * devicePixelRatio;
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    gl.viewport(0, 0, w, h); gl.clearColor(0, 0, 0, 0); gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniform2f(at("turn"), ...turn); gl.uniform1f(at("scale"), reach * zoom); gl.uniform1f(at("aspect"), w / h);
    gl.drawElements(gl.TRIANGLES, gltf.accessors[used.indices].count, gl.UNSIGNED_INT, 0); };
  const loop = () => { if (!held && !still) turn[0] -= 0.008; draw(); requestAnimationFrame(loop); };
  canvas.addEventListener("pointerdown", (e) => { held = [e.clientX, e.clientY];
    canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener("pointerup", () => { held = null; still = true; });
  canvas.addEventListener("pointermove", (e) => { if (!held) return;
    turn = [turn[0] + (e.clientX - held[0]) / 120,
            Math.max(-1.5, Math.min(1.5, turn[1] + (e.clientY - held[1]) / 120))];
    held = [e.clientX, e.clientY]; });
  canvas.addEventListener("wheel", (e) => { e.preventDefault(); zoom *= Math.exp(-e.deltaY / 800); },
    { passive: false });
  canvas.addEventListener("keydown", (e) => { const by = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0],
    ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] }[e.key]; if (!by) return; e.preventDefault(); still = true;
    turn = [turn[0] + by[0], turn[1] + by[1]]; });
  const triangles = gltf.accessors[used.indices].count / 3;
  say(`${triangles.toLocaleString()} triangles; drag or use the arrow keys to turn it, scroll to zoom`); loop();
}
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
{style}
canvas {{ width: 100%; height: min(70vh, 34rem); border: 1px solid var(--line); touch-action: none; cursor: grab; }}
</style></head><body>
<h1>{title}</h1>
<canvas tabindex="0" role="img" aria-label="the mesh, to be turned by hand"></canvas>
<p id="state">loading the mesh</p>
<h2>Turntable</h2><p><img alt="turntable" src="{turntable}"></p>
<h2>From all sides</h2><p><img alt="contact sheet" src="{sheet}"></p>
<h2>Recipe</h2><pre>{recipe}</pre>
<script type="application/octet-stream" id="glb">{glb}</script>
<script>{script}</script>
</body></html>
"""


def write_page(path: Path, title: str, *, glb: Path, turntable: Path, sheet: Path, recipe: str) -> None:
    """Write the page, with everything that it shows inside it."""
    write_text(
        path,
        PAGE.format(
            title=html.escape(title),
            style=STYLE,
            turntable=f"data:image/gif;base64,{_spelled(turntable)}",
            sheet=f"data:image/png;base64,{_spelled(sheet)}",
            recipe=html.escape(recipe),
            glb=_spelled(glb),
            script=WEBGL,
        ),
    )


def _spelled(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
