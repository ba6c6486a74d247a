// SPDX-License-Identifier: MIT
/**
 * Lint rules, the direction of imports among them: a folder may import from its own files and from
 * the layers below it (ARCHITECTURE.md); what stands beside or above it is named here as forbidden.
 */
import { readFileSync } from 'node:fs'
import eslint from '@eslint/js'
import tseslint from 'typescript-eslint'

/** Each folder of src/ with the folders it may import from; every one may import from base. */
const layers = JSON.parse(
  readFileSync(new URL('./scripts/layers.json', import.meta.url), { encoding: 'utf8' }),
)

/** Folders that may import the package of the protocol. */
const speakNbd = new Set(['dataplane', 'server', 'daemon', 'ops'])
/** Packages that one file alone stands in front of: everywhere else they are forbidden. */
const fencedPackages = ['pino', 'prom-client', 'node-gyp-build', '@xmldom/xmldom']

function layerRule(folder) {
  const forbidden = [...Object.keys(layers), 'cli'].filter(
    other => other !== folder && other !== 'base' && !layers[folder].includes(other),
  )
  const patterns = [
    {
      regex: `^\\.\\.?/(.*/)?(${forbidden.join('|')})/`,
      message: `src/${folder} lies below or beside that folder; imports only go down`,
    },
    { regex: '/index\\.js$', message: 'src/index.ts is for those who embed the project' },
  ]
  if (folder === 'disk' || folder === 'format') {
    patterns.push({
      regex: '^node:(fs|net|tls|http|child_process|worker_threads|timers)',
      message: `src/${folder} does no input or output`,
    })
  }
  if (!speakNbd.has(folder)) {
    patterns.push({
      regex: '^nbd-server-protocol',
      message: `src/${folder} lies below the protocol; imports only go down`,
    })
  }
  return {
    files: [`src/${folder}/**/*.ts`],
    rules: {
      '@typescript-eslint/no-restricted-imports': [
        'error',
        { patterns: [...patterns, ...fences(folder)] },
      ],
    },
  }
}

function fences(folder) {
  const names = fencedPackages.filter(
    name =>
      !(name === '@xmldom/xmldom' && folder === 'format') &&
      !(name === 'node-gyp-build' && folder === 'io') &&
      !(name === 'prom-client' && folder === 'daemon'),
  )
  return [{ regex: `^(${names.join('|')})$`, message: 'one module of ours stands in front of it' }]
}

export default tseslint.config(
  { ignores: ['**/dist/**', '**/node_modules/**', '.tap/**', '.state/**', 'test/fixtures/**'] },
  { ignores: ['native/build/**', 'native/prebuilds/**'] },
  eslint.configs.recommended,
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: {
      parserOptions: { project: './tsconfig.check.json', tsconfigRootDir: import.meta.dirname },
    },
    rules: {
      'no-console': 'error',
      'no-restricted-syntax': [
        'error',
        {
          selector: 'ExportDefaultDeclaration',
          message: 'export by name: one thing, one name everywhere',
        },
      ],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
      // `while (true)` with a way out inside is how loops over outside input are written here
      '@typescript-eslint/no-unnecessary-condition': [
        'error',
        { allowConstantLoopConditions: 'only-allowed-literals' },
      ],
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_' }],
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      // the index in the hot path is checked by the loop's bound; see noUncheckedIndexedAccess
      '@typescript-eslint/no-non-null-assertion': 'off',
    },
  },
  { files: ['src/cli/**/*.ts'], rules: { 'no-console': 'off' } },
  ...Object.keys(layers).map(layerRule),
  {
    files: ['nbd/src/**/*.ts'],
    rules: {
      '@typescript-eslint/no-restricted-imports': [
        'error',
        {
          patterns: [
            { regex: '^[^.]', message: 'the package of the protocol imports nothing' },
            { regex: '/src/', message: 'the package of the protocol knows nothing of the project' },
          ],
        },
      ],
    },
  },
  {
    files: ['test/**/*.ts', 'nbd/test/**/*.ts'],
    rules: {
      // t.test() returns a promise that the runner itself awaits
      '@typescript-eslint/no-floating-promises': [
        'error',
        {
          allowForKnownSafeCalls: [
            { from: 'package', package: 'tap', name: ['test', 'rejects', 'resolves'] },
            { from: 'package', package: '@tapjs/test', name: ['test'] },
            { from: 'package', package: '@tapjs/core', name: ['test'] },
            { from: 'package', package: '@tapjs/asserts', name: ['rejects', 'resolves'] },
          ],
          ignoreVoid: true,
        },
      ],
      '@typescript-eslint/require-await': 'off',
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/no-unsafe-member-access': 'off',
      '@typescript-eslint/unbound-method': 'off',
      '@typescript-eslint/no-deprecated': 'off',
    },
  },
  {
    files: ['**/*.mjs', '**/*.js'],
    languageOptions: {
      globals: {
        ...{ process: 'readonly', console: 'readonly', Buffer: 'readonly', URL: 'readonly' },
        ...{ setTimeout: 'readonly', clearTimeout: 'readonly', performance: 'readonly' },
      },
    },
    rules: {
      'no-unused-vars': ['error', { argsIgnorePattern: '^_' }],
    },
  },
)
